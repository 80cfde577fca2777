"""`make docs`: builds the site, or the repository's pages as Markdown files, and checks the links."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS / "_ext"))


def stage(target: Path) -> None:
    """Copy the pages to `target`, where generated ones may stand beside them; what has not changed stays as it is."""
    wanted = {
        path.relative_to(DOCS)
        for path in DOCS.rglob("*")
        if path.suffix in (".md", ".png") and "_ext" not in path.parts and path.is_file()
    }
    target.mkdir(parents=True, exist_ok=True)
    for path in target.rglob("*"):
        if path.is_file() and path.relative_to(target) not in wanted and "repository" not in path.parts:
            path.unlink()
    for name in sorted(wanted):
        source, copy = DOCS / name, target / name
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def forget(out: Path) -> None:
    """Remove what an earlier build made of pages that are no more: Sphinx leaves them."""
    for page in (out / "html").rglob("*.html"):
        name = page.relative_to(out / "html")
        is_page = name.parts[0] in ("repository", "guide", "reference", "made")
        if is_page and not (out / "source" / name.with_suffix(".md")).exists():
            page.unlink()


def sphinx(builder: str, folder: Path, jobs: int) -> int:
    """Run one of Sphinx's builders over the staged pages; the exit status. Warnings are errors."""
    from sphinx.cmd.build import build_main

    options = ["-b", builder, "-c", str(DOCS), "-d", str(folder / "doctrees"), "-j", str(jobs), "-q"]
    return build_main([*options, "-W", "--keep-going", str(folder / "source"), str(folder / builder)])


def main() -> int:
    """Build what is asked for; 0 if there was neither a warning nor a broken link."""
    parser = argparse.ArgumentParser(prog="make docs", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docs", help="folder of the site (build/docs)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes that read and write")
    parser.add_argument("--links", action="store_true", help="ask for each external link, too: needs a network")
    parser.add_argument("--markdown", action="store_true", help="instead: the repository's pages as Markdown files")
    options = parser.parse_args()
    start = time.perf_counter()
    if options.markdown:
        import conf
        from repository_pages import markdown

        folder = options.out.with_name(options.out.name + "-markdown")
        count = markdown.write(ROOT, markdown.options_of(vars(conf)), folder)
        print(f"{count} Markdown files in {folder} ({time.perf_counter() - start:.0f} s)")
        return 0
    stage(options.out / "source")
    forget(options.out)
    # viewcode keeps a module's page while the module is the same, even where other links lead to it now.
    shutil.rmtree(options.out / "html" / "_modules", ignore_errors=True)
    status = sphinx("html", options.out, options.jobs)
    if status:
        return status
    import links

    pages, checked, broken = links.check(options.out / "html")
    for page, target in broken:
        print(f"{page}: broken link to {target}", file=sys.stderr)
    seconds = time.perf_counter() - start
    print(f"{pages} pages in {options.out / 'html'} ({seconds:.0f} s); {checked} links, {len(broken)} of them broken")
    if options.links and not broken:
        status = sphinx("linkcheck", options.out, options.jobs)
    return status or bool(broken)


if __name__ == "__main__":
    sys.exit(main())
