"""Plots as SVG."""

from xml.etree import ElementTree

from benchmarks.plot import Panel, svg

SPACE = "{http://www.w3.org/2000/svg}"


def test_a_plot_has_a_bar_for_each_value_as_tall_as_it_is() -> None:
    panel = Panel("rate & more", ["1", "2"], {"a": [50.0, 100.0], "b": [0.0, 25.0]})
    root = ElementTree.fromstring(svg("a <plot>", [panel, panel]))
    heights = [float(bar.get("height", "")) for bar in root.iter(f"{SPACE}rect") if bar.get("class") == "s0"]
    assert heights[0] * 2 == heights[1]
    assert root.get("aria-label") == "a <plot>"
    texts = [text.text for text in root.iter(f"{SPACE}text")]
    assert texts.count("rate & more") == 2
    assert {"50", "100", "25", "a", "b"} <= set(texts)


def test_a_plot_can_be_read_on_a_dark_page() -> None:
    assert "prefers-color-scheme: dark" in svg("t", [Panel("p", ["1"], {"a": [1.0]})])
