"""Patterns of paths in recipes: what may be written; ``medarts.data.patterns`` reads files by them."""

import re
from typing import Annotated

from pydantic import AfterValidator

from medarts.config.section import Text

FIELDS = ("split", "patient", "group", "name", "class", "channel", "side", "n")


def _checked(text: str) -> str:
    """Refuses what is no pattern of paths within a folder."""
    if text.startswith("/") or text.endswith("/") or ".." in text.split("/") or "\\" in text or "//" in text:
        raise ValueError(f"'{text}' is not a path from the folder; write it as in images/{{name}}")
    unknown = [field for field in re.findall(r"\{([^}]*)\}", text) if field not in FIELDS]
    if unknown:
        known = ", ".join(f"{{{field}}}" for field in FIELDS)
        raise ValueError(f"'{{{unknown[0]}}}' in '{text}' is not a field; there are {known}")
    if text.count("{") != text.count("}"):
        raise ValueError(f"'{text}' has a bracket that is not closed; write fields as in {{name}}")
    if re.search(r"\}\{(?!side\})", text):
        raise ValueError(f"'{text}' has two fields with nothing between them; their ends would be unknown")
    return text


def _of_images(text: str) -> str:
    if not re.search(r"\{(name|patient)\}", _checked(text)):
        raise ValueError(f"'{text}' names no image; write {{name}}, or {{patient}}, where names differ")
    return text


def _of_patients(text: str) -> str:
    if "{patient}" not in _checked(text):
        raise ValueError(
            f"'{text}' is no pattern with {{patient}} in it; write it as in {{patient}}_*, or {{patient}}/*"
        )
    return text


FilePattern = Annotated[Text, AfterValidator(_of_images)]
"""A pattern of the files of a data set."""

PatientPattern = Annotated[Text, AfterValidator(_of_patients)]
"""A pattern that says which part of the names of images, or with a slash of their paths, is the patient; no suffix."""
