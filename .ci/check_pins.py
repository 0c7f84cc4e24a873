"""Check that the versions installed are those of a file of pins, such as `numpy==2.0.*`."""

import importlib.metadata
import sys
from pathlib import Path

from packaging.requirements import Requirement

lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
installed = {pin: importlib.metadata.version(pin.name) for pin in pins}
wrong = [f"{pin} is now {version}" for pin, version in installed.items() if version not in pin.specifier]
print(*(f"{pin.name} {version}" for pin, version in installed.items()), sep=", ")
sys.exit(f"The requirements replace what Colab has: {', '.join(wrong)}" if wrong or not pins else 0)
