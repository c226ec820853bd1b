"""Files that torch's compiler keeps, where one was left half written."""

from __future__ import annotations

import logging
import re
from pathlib import Path

__all__ = ["removed_half_written"]

logger = logging.getLogger(__name__)


def removed_half_written(error: Exception) -> bool:
    """Remove the file of the compiler's cache that an error calls incomplete; false if it is about something else.

    A program that is killed while it compiles leaves one behind, and every later one would end there.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    found = re.search(r"(/\S+\.so): (?:file too short|invalid ELF header|cannot read file data)", str(error))
    if found is None or not Path(found[1]).is_relative_to(cache_dir()):
        return False
    Path(found[1]).unlink(missing_ok=True)
    logger.info("removed %s, which another program left half written", found[1])
    return True
