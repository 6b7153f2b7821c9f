from iccld_cli.inference.api import load as load

__version__: str
