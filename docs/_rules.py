"""Writes docs/rules.md from the documents of the rules: `python docs/_rules.py`."""

from __future__ import annotations

import inspect
from pathlib import Path

from trimtab.diagnose.rules import RULES
from trimtab.diagnose.view import WORDS

HEAD = """# Rules of the diagnosis

Each rule looks for one kind of trouble and has its document beside its code, in `trimtab/diagnose/rules/`.
This page is made of them. What a rule sees is a clue; how clues become one finding per root cause is told in
[Diagnose](diagnose.md).

"""


def page() -> str:
    """The page of all rules."""
    parts = [HEAD]
    for rule in RULES:
        causes = ", ".join(f"`{cause.value}`" for cause in rule.causes)
        needs = ", ".join(words for need, words in WORDS.items() if need in rule.needs) or "nothing but steps"
        document = inspect.cleandoc(type(rule).__doc__ or "")
        parts.append(f"## {type(rule).__name__}\n\nFindings: {causes}. Needs: {needs}.\n\n{document}\n\n")
    return "".join(parts).rstrip("\n") + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("rules.md").write_text(page())
