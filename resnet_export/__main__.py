"""`python -m resnet_export`: the command."""

import sys

from resnet_export.main import main

sys.exit(main())
