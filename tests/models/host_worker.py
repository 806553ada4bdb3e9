"""One of two hosts with four devices: python host_worker.py ADDRESS PROCESS_ID CHECKPOINT DIRECTORY prints what it saw."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models import checkpoint, hosts, init_params, safetensors_io, sharding


def failure(function):
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def checksum(params):
    """Of every weight, from what all hosts hold together."""
    return [float(np.abs(leaf.astype(np.float64)).sum()) for leaf in jax.tree.leaves(hosts.fetch(params))]


def refuse():
    raise ValueError("it is closed")


def missing():
    if not hosts.is_main():
        raise FileNotFoundError("no such file")


def main(address, process_id, path, directory):
    hosts.initialise(address, 2, process_id, timeout=60)
    mesh = sharding.make_mesh((2, 2, 2))
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    keys = jax.random.split(jax.random.key(3), 4)
    read = []
    plain_read = safetensors_io.SafetensorsDirectory.read

    def counting_read(files, name, index):
        piece = plain_read(files, name, index)
        read.append(piece.nbytes)
        return piece

    safetensors_io.SafetensorsDirectory.read = counting_read
    config = checkpoint.read_config(path)
    split = sharding.make_mesh((1, 2, 4))
    params = checkpoint.load_params(path, config, dtype="float32", mesh=split)
    checkpoint.save_orbax(directory / "orbax", params, config)
    checkpoint.export_hf(params, config, directory / "exported" / str(process_id))
    return {
        "hosts": [hosts.count(), hosts.is_main(), len(jax.devices())],
        "rows": hosts.fetch(hosts.put(np.arange(8), rows)).tolist(),
        "scalar": hosts.fetch(hosts.put(np.float32(2.5), everywhere)).tolist(),
        "again": hosts.fetch(hosts.put(hosts.put(np.arange(8), rows), everywhere)).tolist(),
        "local": hosts.fetch(hosts.put(jax.numpy.arange(4), rows)).tolist(),
        "keys": hosts.fetch(jax.vmap(jax.random.bits)(hosts.put(keys, rows))).tolist(),
        "from_main": hosts.from_main(lambda: {"index": process_id}),
        "refused": failure(lambda: hosts.from_main(refuse)),
        "went": hosts.on_all(lambda: "well"),
        "failed": failure(lambda: hosts.on_all(missing)),
        "same": failure(lambda: hosts.check_same("the seed", 7)),
        "other": failure(lambda: hosts.check_same("the seed", process_id)),
        "idle": failure(lambda: sharding.make_mesh((1, 1, 4))),
        "alone": failure(lambda: sharding.mesh_of((1, 1, 1))),
        "read": sum(read),
        "loaded": checksum(params),
        "restored": checksum(checkpoint.restore_orbax(directory / "orbax", split, "float32")),
        "random": checksum(init_params(config, seed=5, dtype="float32", mesh=split)),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))))
