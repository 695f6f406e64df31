"""The attention in the page: the numbers of engine.attention_maps, in few bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sample_views import made_up_attention

from aqr_bench.engine.attention_maps import LayerAttention, QueryAttention
from aqr_bench.report.viewer.attention import DIGITS, encode_attention

LEVELS = len(DIGITS) - 1


def uneven(attention: QueryAttention) -> QueryAttention:
    """The same with weights that differ from cell to cell."""
    rng = np.random.default_rng(0)
    weights = [rng.exponential(size=attention.layout.num_keys) ** 2 for _ in range(2)]
    layer = LayerAttention(*(w / w.sum() for w in weights))
    return replace(attention, layers=(layer, replace(layer, biased_K=layer.plain_K)))


def decoded(entry: dict, shapes: list[tuple[int, ...]]) -> list[list[np.ndarray]]:
    """Of each text of a layer the maps, as weights."""
    sizes = np.cumsum([np.prod(shape) for shape in shapes])
    texts = [np.array([bytes(DIGITS).index(c) for c in text.encode()]) for text in entry["maps"]]
    return [
        [
            (part.reshape(shape) / LEVELS) ** 2 * top
            for part, shape, top in zip(np.split(levels, sizes[:-1]), shapes, entry["largest"], strict=True)
        ]
        for levels in texts
    ]


def tolerance(weights: np.ndarray, largest: float) -> np.ndarray:
    """Half a level of the square root."""
    return (2 * np.sqrt(weights * largest) + largest / LEVELS) * (0.5 / LEVELS) + 1e-12


@pytest.mark.parametrize(("bev", "cameras"), [((4, 4), (2, 2, 3)), (None, (2, 2, 3)), ((6, 8), None)])
def test_the_maps_are_the_weights_of_the_engine_on_one_scale(bev, cameras):
    attention = uneven(made_up_attention(bev, cameras))
    content = encode_attention({"best": attention})
    shapes = [shape for shape in (bev, cameras) if shape]
    for entry, layer in zip(content["queries"][0]["layers"], attention.layers, strict=True):
        for maps, weights_K in zip(decoded(entry, shapes), (layer.plain_K, layer.biased_K), strict=True):
            expected = [part for part in attention.maps(weights_K) if part is not None]
            for part, truth, top in zip(maps, expected, entry["largest"], strict=True):
                assert (np.abs(part - truth) <= tolerance(truth, top)).all()
        assert entry["largest"] == [
            max(a.max(), b.max())
            for a, b in zip(attention.maps(layer.plain_K), attention.maps(layer.biased_K), strict=True)
            if a is not None
        ]


def test_large_maps_are_summed_block_by_block():
    """Those of the full CMT: 180 x 180 BEV tokens and six cameras of 40 x 100."""
    attention = uneven(made_up_attention((180, 180), (6, 40, 100)))
    content = encode_attention({"best": attention})
    assert content["bev"][:2] == [45, 45] and content["camera"] == [6, 10, 25]
    layer = content["queries"][0]["layers"][0]
    bev, cameras = decoded(layer, [(45, 45), (6, 10, 25)])[1]
    truth = attention.maps(attention.layers[0].biased_K)
    sums = truth[0].reshape(45, 4, 45, 4).sum((1, 3)), truth[1].reshape(6, 10, 4, 25, 4).sum((2, 4))
    for part, expected, top in zip((bev, cameras), sums, layer["largest"], strict=True):
        assert (np.abs(part - expected) <= tolerance(expected, top)).all()


def test_four_queries_of_the_full_model_take_a_quarter_of_a_megabyte():
    attention = {str(n): made_up_attention((180, 180), (6, 40, 100), 6, query=n) for n in range(4)}
    queries = encode_attention(attention)["queries"]
    assert sum(len(text) for query in queries for layer in query["layers"] for text in layer["maps"]) < 250_000


def test_windows_and_reference_points_are_where_the_maps_are():
    (query,) = encode_attention({"highest score": made_up_attention()})["queries"]
    assert (
        (query["query"], query["reasons"]) == (7, "highest score")
        and "7.1% to 50.0%" in query["caption"]
        and query["bias"]
    )
    assert query["at"] == [-3.0, -7.0] and query["pixels"] == [None, [0.9, 0.8]]
    assert query["bev_window"] == [-4, -8, 0, -4]  # the second cell of the first row; of 4 m
    assert query["camera_windows"] == [None, [0.6667, 0.5, 1.0, 1.0]]


def test_a_query_that_was_chosen_twice_is_in_the_page_once():
    both = {name: made_up_attention() for name in ("highest score", "largest effect")}
    both["other"] = made_up_attention(query=1)
    names = {query["query"]: query["reasons"] for query in encode_attention(both)["queries"]}
    assert names == {7: "highest score, largest effect", 1: "other"}


def test_a_model_without_a_bias_has_one_map_a_layer_and_no_window():
    attention = replace(made_up_attention(), window_K=None)
    (query,) = encode_attention({"highest score": attention})["queries"]
    assert [len(layer["maps"]) for layer in query["layers"]] == [1] and not query["bias"]
    assert query["bev_window"] is None and query["camera_windows"] == []
