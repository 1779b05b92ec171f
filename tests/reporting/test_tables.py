"""Tables in Markdown."""

from zoracle.reporting.tables import records_table


def test_a_name_brings_neither_html_nor_links_nor_pictures_into_a_table():
    name = "<img src=x onerror=alert(1)> ![p](https://a.example/p.png) [l](javascript:alert(1)) a|b\nc"
    line = records_table("t", "T", [("class", "name", "")], [{"name": name}]).markdown().splitlines()[-1]
    assert line.count("|") == 3  # one cell, one line
    assert line.count("\\|") == 1
    assert "<" not in line
    assert "](" not in line
    assert "img src=x" in line  # nothing is left out
    assert "p.png" in line
