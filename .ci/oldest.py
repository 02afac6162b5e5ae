"""The oldest versions that pyproject.toml admits, as constraints for pip.

`python .ci/oldest.py > oldest.txt`, then `PIP_CONSTRAINT=oldest.txt make test`.
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for requirement in project["dependencies"] + extras["test"] + extras["book"]:
    print(re.sub(r">=([\d.]+).*", r"==\1", requirement))
