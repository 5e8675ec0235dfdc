"""Fragments of the self-contained page."""

import base64
import gzip
import json
import re

import numpy as np
import plotly.graph_objects as go

from mimlab import page

NASTY = "</script><b>&\"'"


def test_the_library_is_plotly_itself():
    packed = re.search(r'id="mimlab-plotly">([^<]*)<', page.library()).group(1)
    source = gzip.decompress(base64.b64decode(packed)).decode()
    assert "plotly.js v" in source[:200] and len(source) > 3_000_000
    assert len(page.library()) < 2_200_000


def test_a_figure_travels_whole_and_cannot_break_out():
    figure = go.Figure(
        go.Scatter(x=[1, 2], y=[1, np.nan], name=NASTY), layout={"title": NASTY, "width": 300, "height": 200}
    )
    figure.frames = [go.Frame(data=[go.Scatter(y=[5])], name="1")]
    fragment = page.figure(figure, f"About {NASTY}")
    inline = re.search(r'<script type="application/json">(.*?)</script>', fragment, re.S).group(1)
    found = json.loads(inline)
    assert found["data"][0]["name"] == NASTY and found["frames"][0]["name"] == "1"
    assert fragment.count("</script>") == 1 and "<b>" not in fragment
    assert 'style="width:300px;height:200px"' in fragment and "<figcaption>About &lt;/script&gt;" in fragment


def test_a_figure_is_told_in_words():
    figure = go.Figure(go.Scatter(y=[1], name="mae"))
    figure.update_layout(title="The <b>loss</b>", xaxis_title="step", yaxis_title="loss")
    assert page.describe(json.loads(figure.to_json())) == "The loss; loss against step; mae"
    assert page.describe({"data": []}) == "a figure"


def test_tables_need_no_script_and_escape():
    html = page.table([{"setting": NASTY, "value": 0.12345}, {"setting": "b"}], "all <of> them", marked=[1])
    assert "<b>" not in html and "</script>" not in html and "all &lt;of&gt; them" in html
    assert "<td class=number>0.1235</td>" in html and "<td>–</td>" in html
    assert html.count("<tr class=marked>") == 1


def test_a_page_fetches_nothing():
    text = page.page("a <title>", page.note("said"))
    outside = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert outside == ["data:,"] and page.MARK in text[:1000] and "<title>a &lt;title&gt;</title>" in text
