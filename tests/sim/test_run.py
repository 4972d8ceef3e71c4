"""The simulation machinery: it passes what is right, and says what is wrong."""

from __future__ import annotations

import os

import pytest

import sim
from sim import Bench, testbench
from tests.sim.duts import Adder, Beat, Pipe

BEATS = 200


@testbench
async def passes_beats(bench: Bench) -> None:
    """Beats go through unchanged; at full rate when nobody pauses."""
    source = bench.source("i", bench.parameters.get("idle", "never"))
    stall, hesitant = (
        bench.parameters.get("stall", "never"),
        bench.parameters.get("hesitant", False),
    )
    sink = bench.sink("o", stall, hesitant=hesitant)
    beats = [bench.rng.getrandbits(20) for _ in range(BEATS)]
    source.send(beats)
    got = await sink.receive(BEATS)
    await source.drain()
    fields = [[sim.decode(Beat, beat)["sum"] for beat in row] for row in (beats, got)]
    bench.compare(*fields, axes=["beat"], what="sum")
    bench.compare(beats, got, axes=["beat"])
    bench.record["cycles"] = sink.cycles
    if bench.parameters == {}:
        assert sink.cycles[0] == source.cycles[0] + 1
        assert set(sim.intervals(sink.cycles)) == {1}


@testbench
async def adds(bench: Bench) -> None:
    """A design without a clock."""
    for a, b in ((-128, -128), (127, 127), (-1, 1)):
        bench.dut.a.value, bench.dut.b.value = a, b
        await bench.settle()
        assert bench.dut.o.value.to_signed() == a + b


@testbench
async def counts_cycles(bench: Bench) -> None:
    """Waiting for n cycles at once is waiting n times for one."""
    start = bench.cycle
    for count in (0, 1, 2, 3, 100):
        await bench.cycles(count)
        start += count
        assert bench.cycle == start
        await bench.settle()  # Off the edge, the next n edges are meant.


@testbench
async def dies(_bench: Bench) -> None:
    """Take the simulator down."""
    os._exit(3)


@testbench
async def leaves_quietly(_bench: Bench) -> None:
    """Take the simulator down with a good exit status."""
    os._exit(0)


@testbench
async def hangs(_bench: Bench) -> None:
    """Stop simulated time."""
    while True:
        pass


@testbench
async def sees_inside(bench: Bench) -> None:
    """A register is reachable."""
    assert not bench.dut.full.value


@pytest.mark.parametrize("idle", sim.PATTERNS)
@pytest.mark.parametrize("stall", sim.PATTERNS)
def test_passes(idle: str, stall: str, seed: int) -> None:
    parameters = {"idle": idle, "stall": stall}
    sim.run(Pipe(), __name__, "passes_beats", parameters=parameters, seed=seed)


def test_throughput_is_seen_and_recorded() -> None:
    cycles = sim.run(Pipe(), __name__, "passes_beats").record["cycles"]
    assert len(cycles) == BEATS
    assert cycles[-1] - cycles[0] == BEATS - 1


def test_seed_repeats_a_run() -> None:
    parameters = {"idle": "often", "stall": "bursts"}
    runs = [
        sim.run(Pipe(), __name__, "passes_beats", parameters=parameters, seed=seed).record
        for seed in (5, 5, 6)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_cycles_are_counted() -> None:
    sim.run(Pipe(), __name__, "counts_cycles")


def test_design_without_clock() -> None:
    sim.run(Adder(), __name__, "adds")


def test_mismatch_is_explained() -> None:
    parameters = {"stall": "rarely"}
    with pytest.raises(sim.SimulationError) as caught:
        sim.run(Pipe("payload"), __name__, "passes_beats", parameters=parameters, seed=3)
    message = str(caught.value)
    assert "seed 3, parameters {'stall': 'rarely'}" in message
    assert "of 200 elements differ" in message
    assert "] expected 7, got 6" in message


@pytest.mark.parametrize(
    ("fault", "says"), [("retract", "then was taken back"), ("change", "then changed to")]
)
def test_broken_stream_rule_is_caught(fault: str, says: str) -> None:
    with pytest.raises(sim.SimulationError, match=f"stream 'o', cycle .*{says}"):
        sim.run(Pipe(fault), __name__, "passes_beats", parameters={"stall": "often"})


def test_valid_that_waits_for_ready_is_caught() -> None:
    parameters = {"hesitant": True}
    sim.run(Pipe(), __name__, "passes_beats", parameters=parameters)
    with pytest.raises(sim.SimulationError, match="timeout_cycles=1000"):
        sim.run(Pipe("wait"), __name__, "passes_beats", parameters=parameters, timeout_cycles=1000)


def test_cycle_limit() -> None:
    says = "not done after timeout_cycles=300; source 'i': 1 sent, 199 left; sink 'o': 0 received"
    with pytest.raises(sim.SimulationError, match=says):
        sim.run(Pipe("stuck"), __name__, "passes_beats", timeout_cycles=300)


def test_time_limit() -> None:
    with pytest.raises(sim.SimulationError, match="did not end within timeout_s=4"):
        sim.run(Pipe(), __name__, "hangs", timeout_s=4)


def test_death_is_a_failure() -> None:
    with pytest.raises(sim.SimulationError, match="simulator ended with 3"):
        sim.run(Pipe(), __name__, "dies")


def test_quiet_death_is_a_failure() -> None:
    with pytest.raises(sim.SimulationError, match="died without results"):
        sim.run(Pipe(), __name__, "leaves_quietly")


def test_unknown_testbench_is_a_failure() -> None:
    with pytest.raises(sim.SimulationError):
        sim.run(Pipe(), __name__, "no_such_testbench")


def test_internals_on_request() -> None:
    sim.run(Pipe(), __name__, "sees_inside", internals=True)
    with pytest.raises(sim.SimulationError, match="full"):
        sim.run(Pipe(), __name__, "sees_inside")


def test_waves_on_request() -> None:
    assert sim.run(Pipe(), __name__, "passes_beats", waves=False).waves is None
    waves = sim.run(Pipe(), __name__, "passes_beats", waves=True).waves
    assert waves is not None
    assert "i__payload" in waves.read_text()


@pytest.mark.parametrize("name", ["PYTEST_CURRENT_TEST", "parameters"])
def test_every_case_has_its_waves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = set()
    for case in ("one", "two"):
        if name == "PYTEST_CURRENT_TEST":
            monkeypatch.setenv(name, case)
        parameters = {"case": case} if name == "parameters" else {}
        run = sim.run(Pipe(), __name__, "passes_beats", waves=True, parameters=parameters)
        files.add(run.waves)
    assert len(files) == 2
