"""Mount OpenStack Swift containers as a local folder."""

__version__ = "0.1.0"
