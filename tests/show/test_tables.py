"""One way to write a Markdown table."""

from minivim_lab.tables import markdown_table


def test_titles_a_rule_and_one_line_for_each_row():
    found = markdown_table(["row", "PSNR"], [("a", 20), ["b", "-"]])
    assert found == "| row | PSNR |\n|---|---|\n| a | 20 |\n| b | - |"
    assert markdown_table(["x"], []) == "| x |\n|---|"
