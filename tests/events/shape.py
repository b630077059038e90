"""What a registry of the form `definition/2` has to look like, as far as ours uses it.

After the description of that form in the documentation of OpenTelemetry's weaver
("Semantic Convention YAML Language v2"); weaver itself is not needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

SECTIONS = {"file_format", "attributes", "attribute_groups", "events", "spans"}
ITEMS = {
    "attributes": ({"key", "type", "brief", "stability"}, {"note", "examples", "annotations"}),
    "attribute_groups": ({"id", "visibility"}, {"attributes"}),
    "events": ({"name", "brief", "stability"}, {"note", "attributes", "annotations"}),
    "spans": ({"type", "kind", "brief", "stability", "name"}, {"note", "attributes"}),
}
NAMED_BY = {"attributes": "key", "attribute_groups": "id", "events": "name", "spans": "type"}
TYPES = {"string", "int", "double", "boolean", "any", "string[]", "int[]", "double[]", "boolean[]"}
PYTHON = {"string": str, "int": int, "double": float, "boolean": bool}
STABILITIES = {"stable", "development", "alpha", "beta", "release_candidate"}
LEVELS = {"required", "recommended", "opt_in"}
CONDITIONS = {"conditionally_required", "recommended", "opt_in"}
NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


def problems(files: dict[str, dict[str, Any]], manifest: dict[str, Any]) -> list[str]:
    """Everything that is wrong with a registry, in words; empty if nothing is."""
    return [*_manifest(manifest), *_files(files), *_references(files)]


def _manifest(manifest: dict[str, Any]) -> Iterator[str]:
    if not re.fullmatch(r"https?://[^/]+/.*[^/]/\d+\.\d+\.\d+", manifest.get("schema_url", "")):
        yield "manifest: schema_url is no URL that ends in a version"
    if manifest.get("stability") not in STABILITIES:
        yield "manifest: stability"


def _files(files: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, file in files.items():
        if file.get("file_format") != "definition/2":
            yield f"{name}: file_format"
        yield from (f"{name}: {section}?" for section in file.keys() - SECTIONS)
        for section in ITEMS.keys() & file.keys():
            for item in file[section]:
                yield from (f"{item.get(NAMED_BY[section])}: {p}" for p in _item(section, item))


def _item(section: str, item: dict[str, Any]) -> Iterator[str]:
    required, optional = ITEMS[section]
    yield from (f"{key} is missing" for key in required - item.keys())
    yield from (f"{key}?" for key in item.keys() - required - optional)
    if "stability" in required and item.get("stability") not in STABILITIES:
        yield "stability"
    if not NAME.fullmatch(str(item.get(NAMED_BY[section]))):
        yield "is no name"
    if section == "attributes":
        yield from _attribute(item)
    if section == "spans" and not isinstance(item["name"].get("note"), str):
        yield "has no name"


def _attribute(item: dict[str, Any]) -> Iterator[str]:
    if isinstance(item["type"], dict):
        members = item["type"].get("members", [])
        yield from (f"member {m}" for m in members if not {"id", "stability", "brief"} <= m.keys())
        if not members or len({member["id"] for member in members}) != len(members):
            yield "members"
        return
    if item["type"] not in TYPES:
        yield f"type {item['type']}"
        return
    if item["type"] in ("string", "string[]") and not item.get("examples"):
        yield "text without an example"
    for example in item.get("examples", ()):
        kind = PYTHON[item["type"].removesuffix("[]")]
        inner = example if item["type"].endswith("[]") else [example]
        if not all(type(one) is kind for one in inner):
            yield f"example {example!r} is no {item['type']}"


def _references(files: dict[str, dict[str, Any]]) -> Iterator[str]:
    everything = {section: [item for file in files.values() for item in file.get(section, ())]
                  for section in ITEMS}
    for section, items in everything.items():
        counts = Counter(item[NAMED_BY[section]] for item in items)
        yield from (f"{name} is there {n} times" for name, n in counts.items() if n > 1)
    keys = {item["key"] for item in everything["attributes"]}
    groups = {item["id"]: item for item in everything["attribute_groups"]}
    for section in ("attribute_groups", "events", "spans"):
        for item in everything[section]:
            yield from (f"{item[NAMED_BY[section]]}: {p}" for p in _one(item, keys, groups))


def _one(item: dict[str, Any], keys: set[str], groups: dict[str, Any]) -> Iterator[str]:
    used: Counter[str] = Counter()
    for reference in item.get("attributes", ()):
        if "ref_group" in reference:
            group = groups.get(reference["ref_group"])
            if group is None or len(reference) > 1:
                yield f"group {reference}"
            else:
                used.update(inner["ref"] for inner in group["attributes"] if "ref" in inner)
            continue
        if reference["ref"] not in keys:
            yield f"{reference['ref']} is not declared"
        yield from (f"{key}?" for key in reference.keys() - {"ref", "requirement_level", "note"})
        yield from _level(reference.get("requirement_level"))
    # "Collisions between attribute groups are not allowed."
    yield from (f"{key} is in two groups" for key, times in used.items() if times > 1)


def _level(level: Any) -> Iterator[str]:
    if isinstance(level, dict) and len(level) == 1 and level.keys() <= CONDITIONS:
        return
    if level not in LEVELS:
        yield f"requirement level {level}"
