"""Collectives of compiled programs: their groups, mesh axes, sizes and times."""

from __future__ import annotations

import numpy as np
import pytest

from flan_train import plan_chips, plan_collectives, plan_hlo, plan_loops
from flan_train.plan_collectives import Network, groups_of

MESH = {"dcn": 2, "data": 1, "fsdp": 4, "tensor": 2}
V4 = plan_chips.CHIPS["v4"]


def network(chip: plan_chips.Chip = V4) -> Network:
    # Two slices of 4 x 2 chips.
    places = np.array([[n // 2 % 4, n % 2, 0] for n in range(16)])
    return Network(MESH, places, np.repeat([0, 1], 8), (4, 2, 1), chip)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,2},{1,3}}", [[0, 2], [1, 3]]),
        ("{}", [[0, 1, 2, 3]]),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", [[0, 1], [2, 3]]),
        ("mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
    ],
)
def test_groups(text: str, groups: list[list[int]]) -> None:
    assert groups_of(text, 4) == groups


def test_groups_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match="no groups"):
        groups_of("something", 4)


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ([[0, 1], [2, 3]], "tensor"),
        ([[0, 2, 4, 6], [1, 3, 5, 7]], "fsdp"),
        ([[0, 8]], "dcn"),
        ([list(range(8))], "fsdp x tensor"),
        ([list(range(16))], "dcn x fsdp x tensor"),
        ([[0, 2]], "part of fsdp"),
    ],
)
def test_groups_are_named_by_mesh_axes(groups: list[list[int]], axes: str) -> None:
    assert network().axes(groups) == axes


def test_links_of_a_group() -> None:
    # Four in a line are as fast as its ends, which have one link; two neighbours share one.
    assert network().rate([0, 2, 4, 6]) == V4.link_rate
    assert network().rate([0, 1]) == V4.link_rate
    assert network().rate(list(range(8))) == 2 * V4.link_rate
    assert network().rate([0, 8]) == V4.dcn_rate


@pytest.mark.parametrize(
    ("name", "group", "links"),
    [
        # Only where every side is a multiple of 4 is a slice a torus.
        ("v4:4x4x4", "all", 6),
        ("v4:4x4x4", "last side", 2),
        ("v4:4x4x4", "neighbours", 1),
        ("v4:4x4x8", "last side", 2),
        ("v4:2x4x4", "all", 3),
        ("v4:2x4x4", "last side", 1),
        ("v4:2x2x2", "all", 3),
        ("v4:2x2x1", "all", 2),
        ("v5p:4x4x4", "all", 6),
        ("v5p:4x4x2", "all", 3),
        # A side of 16 is closed by itself.
        ("v5e:16x16", "all", 4),
        ("v5e:8x16", "all", 3),
        ("v5e:4x4", "all", 2),
        ("v6e:8x8", "last side", 1),
    ],
)
def test_links_of_a_chip(name: str, group: str, links: int) -> None:
    topology = plan_chips.parse(name)
    places = np.array(list(np.ndindex(topology.sides)))
    mesh = {"data": topology.devices}
    found = Network(mesh, places, np.zeros(len(places), int), topology.sides, topology.chip)
    members = {"all": len(places), "last side": topology.sides[-1], "neighbours": 2}[group]
    assert found.rate(list(range(members))) == links * topology.chip.link_rate


PROGRAM = """\
%all-reduce-scatter.1 (in: f32[64,32]) -> f32[16,32] {
  %in = f32[64,32]{1,0} parameter(0)
  %sum = f32[64,32]{1,0} all-reduce(%in), replica_groups={{0,2,4,6},{1,3,5,7},{8,10,12,14},\
{9,11,13,15}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %part = f32[16,32]{1,0} dynamic-slice(%sum, %zero, %zero), dynamic_slice_sizes={16,32}
}

ENTRY %main (x: f32[64,32], y: bf16[16,8]) -> f32[16,32] {
  %x = f32[64,32]{1,0} parameter(0)
  %y = bf16[16,8]{1,0} parameter(1)
  %all = bf16[64,8]{1,0} all-gather(%y), replica_groups=[4,4]<=[2,4,2]T(0,2,1), dimensions={0}
  %shift = bf16[16,8]{1,0} collective-permute(%y), source_target_pairs={{0,2},{2,4},{4,6},{6,0}}
  %slices = f32[64,32]{1,0} all-reduce(%x), replica_groups={{0,8},{1,9},{2,10},{3,11},{4,12},\
{5,13},{6,14},{7,15}}, to_apply=%add
  %alone = f32[64,32]{1,0} all-reduce(%x), replica_groups={{0},{1},{2},{3}}, to_apply=%add
  ROOT %out = f32[16,32]{1,0} fusion(%slices), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


ASYNC = """\
%start.1 (a: f32[8,8]) -> f32[16,8] {
  %a = f32[8,8]{1,0} parameter(0)
  %g = f32[16,8]{1,0} all-gather(%a), channel_id=7, replica_groups={{0,1}}, dimensions={0}
  ROOT %s = f32[16,8]{1,0} custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.2 (a: f32[8,8]) -> f32[16,8] {
  %a = f32[8,8]{1,0} parameter(0)
  ROOT %g = f32[16,8]{1,0} all-gather(%a), channel_id=7, replica_groups={{0,1}}, dimensions={0}
}

%done.3 (a: f32[8,8]) -> f32[16,8] {
  %a = f32[8,8]{1,0} parameter(0)
  %g = f32[16,8]{1,0} all-gather(%a), channel_id=7, replica_groups={{0,1}}, dimensions={0}
  ROOT %s = f32[16,8]{1,0} custom-call(%g), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (x: f32[8,8]) -> f32[16,8] {
  %x = f32[8,8]{1,0} parameter(0)
  %token = token[] after-all()
  %send = (f32[8,8]{1,0}, u32[], token[]) send(%x, %token), channel_id=9, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.5_0"}
  %begun = f32[16,8]{1,0} fusion(%x), kind=kCustom, calls=%start.1
  %beside = f32[16,8]{1,0} fusion(%x), kind=kLoop, calls=%async_collective_fusion.2
  ROOT %end = f32[16,8]{1,0} fusion(%x), kind=kCustom, calls=%done.3
}
"""


def test_what_is_begun_goes_on_and_ends_is_counted_once() -> None:
    module = plan_hlo.parse(ASYNC)
    found = plan_collectives.collectives(module, plan_loops.runs(module), network())
    assert {(row.kind, row.axes, row.times) for row in found} == {
        ("all-gather", "tensor", 1),
        ("all-reduce", "dcn", 1),
    }
    across = next(row for row in found if row.axes == "dcn")
    assert across.seconds == pytest.approx(8 * 8 * 4 / V4.dcn_rate)


def test_collectives_of_a_program() -> None:
    module = plan_hlo.parse(PROGRAM)
    runs = [run._replace(times=3) for run in plan_loops.runs(module)]
    found = {
        (row.kind, row.axes): row for row in plan_collectives.collectives(module, runs, network())
    }
    assert set(found) == {
        ("all-gather", "fsdp"),
        ("collective-permute", "fsdp"),
        ("all-reduce", "dcn"),
        ("reduce-scatter", "fsdp"),
    }
    gather = found["all-gather", "fsdp"]
    assert (gather.times, gather.bytes, gather.devices) == (3, 3 * 64 * 8 * 2, 4)
    assert gather.seconds == pytest.approx(gather.bytes * 3 / 4 / V4.link_rate)
    across = found["all-reduce", "dcn"]
    assert across.seconds == pytest.approx(across.bytes / V4.dcn_rate)
    assert found["reduce-scatter", "fsdp"].bytes == 3 * 64 * 32 * 4
    rows = plan_collectives.as_rows(found.values())
    assert rows[0]["kind"] == next(iter(found.values())).kind
