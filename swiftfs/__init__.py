"""Mount OpenStack Swift containers as a local folder."""

__version__ = "0.2.0.dev0"
