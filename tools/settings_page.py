"""Print docs/settings.md from the table in otel_memoir.settings."""

from __future__ import annotations

from otel_memoir.settings import Settings

HEAD = """# Settings

Generated from `otel_memoir/settings.py` by `tools/settings_page.py`. A value given in code wins
over the settings file, that over the environment, and that over the default.
`otel-memoir settings show` tells what counts, and who said it.

## Change without restart

What has a *yes* under *live* can be changed in a running process:

- by `change_settings(retain_s=3600, ...)` of the processor, the exporter or the pipeline; `None`
  takes back what the code had said. All of it is done or nothing: what cannot be used, or is not
  live, raises `SettingsError`.
- by the file that `MEMOIR_SETTINGS_FILE`, or `settings_file=` in code, names. It is TOML, with the
  names of this table (`headers` is a table of its own). It is looked at about once a second by the
  courier's thread, so from the first record on, and read once it has looked the same twice. Replace
  it by a rename; a ConfigMap is. A file that is not good changes nothing, also one that would
  change what is not live: it is said once, with the line and the reason, and
  `pipeline.settings_problem` says it until there is a good one. `otel-memoir settings check FILE`
  checks a file first. What the code says, a file cannot change.

A request that is in flight ends as it began, and a batch that was tried stays as it is. With
another destination, a hold ends at once. Fork children go on with what their parent changed.

## Table

| setting | environment | default | unit | live | meaning | danger |
|---|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = []
    for name, field in Settings.__dataclass_fields__.items():
        about = field.metadata
        env = f"`{about['env']}`" if about["env"] else ""
        live = "yes" if about["live"] else "no"
        cells = (f"`{name}`", env, f"`{field.default}`", about["unit"], live, about["doc"],
                 about["danger"])
        rows.append("| " + " | ".join(cells) + " |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    print(page(), end="")
