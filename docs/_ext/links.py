"""Whether the links between a site's pages lead somewhere: files and the anchors in them. Needs no network."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

_ID = re.compile(r"""\s(?:id|name)=["']([^"']+)["']""")
_LINK = re.compile(r"""<(?:a|link|script|img)\b[^>]*?\s(?:href|src)=["']([^"']*)["']""")
# A script's text is not a page's: Sphinx's search has templates of links in it.
_SCRIPT = re.compile(r"(<script\b[^>]*>).*?</script>", re.DOTALL)


def check(site: Path) -> tuple[int, int, list[tuple[str, str]]]:
    """How many pages and links between them `site` has, and the (page, link) that lead nowhere."""
    texts = {path: _SCRIPT.sub(r"\1", path.read_text()) for path in sorted(site.rglob("*.html"))}
    anchors = {path: set(_ID.findall(text)) for path, text in texts.items()}
    checked, broken = 0, []
    for path, text in texts.items():
        for link in sorted(set(_LINK.findall(text))):
            parts = urlsplit(link.replace("&amp;", "&"))
            if parts.scheme or parts.netloc or not link:
                continue
            checked += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            fragment = unquote(parts.fragment)
            if not target.is_file() or (fragment and target in anchors and fragment not in anchors[target]):
                broken.append((str(path.relative_to(site)), link))
    return len(texts), checked, broken
