"""All metadata is in setup.cfg; this file lets tools that look for setup.py find it."""

from setuptools import setup

setup()
