"""Tells setuptools which packages there are; all other metadata is in setup.cfg."""

from setuptools import find_packages, setup

# assets/ stays at the top of the repository, where its paths are short, and is installed as rapid_jax/assets/.
setup(
    packages=[*find_packages(include=["rapid_jax*", "models*", "launch*", "configs*"]), "rapid_jax.assets"],
    package_dir={"rapid_jax.assets": "assets"},
)
