"""Print docs/settings.md from the table in otel_memoir.settings."""

from __future__ import annotations

from otel_memoir.settings import Settings

HEAD = """# Settings

Generated from `otel_memoir/settings.py` by `tools/settings_page.py`. A value given in code wins
over the environment, which wins over the default.

| setting | environment | default | unit | meaning | danger |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = []
    for name, field in Settings.__dataclass_fields__.items():
        about = field.metadata
        env = f"`{about['env']}`" if about["env"] else ""
        cells = (f"`{name}`", env, f"`{field.default}`", about["unit"], about["doc"],
                 about["danger"])
        rows.append("| " + " | ".join(cells) + " |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    print(page(), end="")
