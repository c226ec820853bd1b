"""Put recipes/, data_cards/ and slurm/, which stand beside the package in a checkout, into the wheel."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED_FOLDERS = ("recipes", "data_cards", "slurm")


class BuildWithShippedFolders(build_py):
    """Copy the shipped folders to foundation/_shipped; an editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for name in SHIPPED_FOLDERS:
            target = Path(self.build_lib) / "foundation" / "_shipped" / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(Path(__file__).parent / name, target)


setup(cmdclass={"build_py": BuildWithShippedFolders})
