"""Imports tensorboardX, but not PyTorch.

Where PyTorch is installed, tensorboardX would import it, which takes 1.4 s and 180 MB.
Nothing here needs it.
"""

import sys

hidden = "torch" not in sys.modules
if hidden:
    sys.modules["torch"] = None  # type: ignore[assignment]  # an import of it fails
try:
    from tensorboardX import summary  # noqa: F401
    from tensorboardX.event_file_writer import EventsWriter  # noqa: F401
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: F401
    from tensorboardX.proto.summary_pb2 import Summary  # noqa: F401
finally:
    if hidden:
        del sys.modules["torch"]
