"""Links out of the docs lead to files of the repository, which the site does not have: there they are plain text. One
that leads nowhere ends the build."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    folder = Path(config["docs_dir"], page.file.src_uri).resolve().parent

    def plain(link: re.Match[str]) -> str:
        if not (folder / link[2]).exists():
            raise FileNotFoundError(f"{page.file.src_uri}: {link[2]} is not there")
        return link[1]

    return LINK.sub(plain, markdown)
