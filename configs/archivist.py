"""The embedded model, 2.1 million parameters, drafting for itself; runs on anything.

    python -m launch.generate --method=lc,rag,sd,rapid

answers a dossier question about the embedded archive and prints the four methods side by side. eta is in the
range that the paper uses for self-speculation (5, 10, 20).
"""

from configs import base


def get_config():
    return base.make(
        speculation=dict(gamma=10, eta=10.0),
        sampling=dict(temperature=0.0, max_new_tokens=256),
    )
