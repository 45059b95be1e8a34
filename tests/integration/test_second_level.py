"""What is not done again: a second level's downloads, and what a changed file has no part in."""

from __future__ import annotations

from typing import Any

from .pipeline import V1, V3, Checkout
from .tiny import BUILD, PACKAGE, archives


def compiled(checkout: Checkout, variant: str) -> dict[str, Any]:
    checkout.run(*checkout.line("compile", "--variant", variant)).built()
    outputs: dict[str, Any] = checkout.record(variant, "compile")["outputs"]
    return outputs


def test_what_was_done_is_not_done_again(tiny: Checkout) -> None:
    """The second level downloads nothing; of three compiles and a link, a changed file costs its own and the link."""

    def write(name: str, number: int) -> None:
        # Each level makes another object of it, or the other level's link would be found in the cache.
        text = f"#ifdef __AVX2__\nint {name}_level = 3;\n#endif\nint {name}() {{ return {number}; }}\n"
        (tiny.folder / PACKAGE / f"{name}.cc").write_text(f"// {tiny.mark}\n{text}")

    write("one", 1)
    write("two", 1)
    with (
        archives() as server,
        tiny.edited(BUILD, '["main.cc"', '["main.cc", "one.cc", "two.cc"'),
        server.depend(tiny),
    ):
        first, second = compiled(tiny, V1), compiled(tiny, V3)
        assert first["bytes_fetched"] > 0
        assert (second["bazel_ran"], second["bytes_fetched"]) == (True, 0)
        write("two", 2)
        for variant in (V1, V3):
            found = compiled(tiny, variant)
            assert (found["local_actions"], found["disk_cache_hits"]) == (2, 2)
