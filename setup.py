"""Lists the packages; pyproject.toml holds everything else.

The directory configs/ ships as the package metanet.configs, so that
``metanet train --config classify_inr`` works outside a checkout.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["metanet*"]), "metanet.configs"],
    package_dir={"metanet.configs": "configs"},
)
