from iccld_cli.calls import adapt_adv as adapt_adv
from iccld_cli.calls import adapt_footage as adapt_footage
from iccld_cli.calls import adapt_seg as adapt_seg
from iccld_cli.calls import prepare_data as prepare_data
from iccld_cli.inference.api import load as load

__version__: str
