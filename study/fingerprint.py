"""The short names of what belongs together: hashes of plain documents."""

import hashlib
import json


def fingerprint(document: object, digits: int = 8) -> str:
    """Hash a document of plain JSON values; the order of a mapping's keys does not matter.

    Args:
        document: What is named; anything JSON can hold.
        digits: Hexadecimal digits of the name, 1 to 64: eight tell a study's own settings apart, sixteen the teachers
            and accesses of all studies in a folder.
    """
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:digits]
