"""Configurations: each module's get_config() gives the ConfigDict that --config names."""
