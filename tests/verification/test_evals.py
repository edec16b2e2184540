"""run_evals: what is expected is found, what is not is said; reports, history, baselines and interrupted runs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from appliance.verification.evals import main
from appliance.verification.evals_cases import EXPECT
from appliance.verification.evals_files import HISTORY, LATEST
from appliance.verification.evals_options import make_parser
from appliance.verification.evals_schema import KEYWORDS
from appliance.verification.http import Answer, Unreachable
from tests.verification.fake_model import DONE, FakeModel, chunk, finish, stream, whole

ROOT = Path(__file__).parents[2]
CHAT, AGENT, RERANK = "/v1/chat/completions", "/v1/agent/run", "/v1/rerank"
NOON = 1_800_000_000.0
QUESTION = {"messages": [{"role": "user", "content": "hello"}]}


def case(name: str = "one", kind: str = "chat", **fields: Any) -> dict[str, Any]:
    return {"id": name, "kind": kind, "request": QUESTION, "expect": {"contains": ["hello"]}, **fields}


class Bench:
    """A directory with a file of cases, and runs against a fake."""

    def __init__(self, directory: Path) -> None:
        self.out = directory / "out"
        self.golden = directory / "golden.json"
        self.now = NOON

    def run(self, model: FakeModel, *cases: dict[str, Any], more: tuple[str, ...] = ("--require-backend",)) -> int:
        self.golden.write_text(json.dumps({"schema": "appliance_evals.v1", "cases": cases}))
        where = [
            "--base-url",
            "http://x",
            "--token",
            "t" * 20,
            "--golden",
            str(self.golden),
            "--out-dir",
            str(self.out),
        ]
        return main([*where, *more], {}, model.travel(), lambda: self.now)

    def report(self) -> Any:
        return json.loads((self.out / LATEST).read_text())

    def only(self) -> Any:
        (found,) = self.report()["cases"]
        return found

    def partials(self) -> list[Path]:
        return list(self.out.glob("partial-*.jsonl"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def call(name: str, arguments: str) -> bytes:
    return chunk(tool_calls=[{"index": 0, "function": {"name": name, "arguments": arguments}}])


TOOL_STREAM = [call("weather", '{"city":'), call("", '"Cologne","days":[1]}'), finish("tool_calls"), DONE]


@pytest.mark.parametrize(
    ("expect", "answer", "reason"),
    [
        ({"exact": "hello you"}, stream("hello you"), None),
        ({"exact": "hello"}, stream("hello you"), 'it is "hello you", not "hello"'),
        ({"contains": ["you", "world"]}, stream("hello you"), 'without "world"'),
        ({"not_contains": ["you"]}, stream("hello you"), 'with "you"'),
        ({"regex": "^h.*u$"}, stream("hello you"), None),
        ({"regex": "^x"}, stream("hello you"), "nothing like"),
        ({"json_schema": {"type": "object"}}, stream('{"a": 1}'), None),
        ({"json_schema": {"type": "object"}}, stream("hello you"), "it is no JSON"),
        ({"json_schema": {"type": "number"}}, stream("NaN"), "it is no JSON"),
        ({"json_schema": {"required": ["b"]}}, stream('{"a": 1}'), "the answer lacks b"),
        ({"finish_reason": "stop"}, stream("a", reason="length"), "finish_reason is 'length'"),
        ({"max_tokens": 6}, stream("a"), "max_tokens 6: it took 7"),
        ({"max_tokens": 6}, [chunk(content="a"), DONE], "max_tokens 6: it does not say"),
        ({"tool_calls": []}, stream("a"), None),
        ({"tool_calls": [{"name": "weather", "arguments": {"city": "Cologne"}}]}, TOOL_STREAM, None),
        ({"tool_calls": [{"name": "weather", "arguments": {"days": [1]}}]}, TOOL_STREAM, None),
        ({"tool_calls": [{"name": "weather", "arguments": {"days": [True]}}]}, TOOL_STREAM, "without"),
        (
            {"tool_calls": [{"name": "weather", "arguments": {"country": "DE"}}]},
            TOOL_STREAM,
            'without {"country": "DE"}',
        ),
        ({"tool_calls": [{"name": "time"}]}, TOOL_STREAM, "it calls weather, not time"),
        ({"tool_calls": []}, TOOL_STREAM, "it calls weather, not nothing"),
        ({"tool_calls": [{"name": "weather"}]}, stream("a"), "it calls nothing, not weather"),
        ({"exact": "a"}, stream("a")[:-1], "broke off before its [DONE]"),
        (
            {"exact": "a"},
            [chunk(content="a"), b'data: {"error":{"message":"late"}}', DONE],
            "an error in the middle: late",
        ),
        ({"exact": "a"}, [b"data: nonsense", DONE], "an answer of an unexpected shape"),
        ({"exact": "a"}, [chunk(content="a"), 901.0, chunk(content="a"), DONE], "had not ended after 900 s"),
        ({"exact": "a"}, Answer(503, (), b'{"error":{"message":"not ready"}}'), "503 not ready"),
    ],
)
def test_a_chat_is_judged_by_what_is_expected_of_it(bench: Bench, expect: Any, answer: Any, reason: str | None) -> None:
    code = bench.run(FakeModel({CHAT: [answer]}), case(expect=expect))
    found = bench.only()
    assert (code, found["outcome"]) == ((0, "OK") if reason is None else (1, "FAIL"))
    assert (reason or "") in "; ".join(found["attempts"][0]["reasons"])


def test_a_whole_answer_is_judged_the_same(bench: Bench) -> None:
    calls = [{"name": "weather", "arguments": '{"city":"Cologne"}'}]
    expect = {"exact": "", "tool_calls": [{"name": "weather", "arguments": {"city": "Cologne"}}], "max_tokens": 7}
    model = FakeModel({CHAT: [whole("", calls)]}, delay_s=0.25)
    assert bench.run(model, case(stream=False, expect=expect)) == 0
    assert bench.only()["total_ms"] == 250
    assert bench.only()["ttft_ms"] is None
    assert b"stream" not in (model.asked[0].body or b"")


@pytest.mark.parametrize(
    ("lines", "budget", "reason"),
    [
        ([1.0, *stream("hello")], {"ttft": 1000, "total": 1000}, None),
        ([1.001, *stream("hello")], {"ttft": 1000}, "the first word took 1001 ms, more than 1000"),
        ([*stream("hello"), 2.0], {"total": 1999}, "it took 2000 ms, more than 1999"),
        ([1.501, *stream("hello")], {}, "the first word took 1501 ms, more than 1500"),
        ([*stream("hello"), 15.001], {}, "it took 15001 ms, more than 15000"),
        ([chunk(role="assistant"), 1.6, chunk(content="hello"), DONE], {}, "the first word took 1600 ms"),
        ([chunk(reasoning_content="hm"), 1.6, chunk(content="hello"), DONE], {}, None),
        ([finish(), DONE], {}, "the first word never came"),
    ],
)
def test_times_are_held_against_the_cases_budget_or_the_runs(
    bench: Bench, lines: Any, budget: dict[str, float], reason: str | None
) -> None:
    code = bench.run(FakeModel({CHAT: [lines]}), case(budget_ms=budget))
    assert code == (0 if reason is None else 1)
    assert (reason or "") in "; ".join(bench.only()["attempts"][0]["reasons"])


def agent_run(**fields: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 9, "completion_tokens": 5}
    events = [
        {"type": "run_started", "turn": None},
        {"type": "plan", "turn": 0, "usage": usage},
        {"type": "assistant", "turn": 0, "usage": usage},
        {"type": "tool", "turn": 0, "tool": "noop", "arguments": {"text": "a"}},
        {"type": "tool", "turn": 0, "tool": "noop"},  # arguments too long to be shown
        {"type": "plan", "turn": 1},
        {"type": "run_completed", "turn": 1},
    ]
    return {
        "ok": True,
        "output_text": "hello",
        "error": None,
        "backend": "b",
        "upstream_model": "m",
        "events": events,
    } | fields


@pytest.mark.parametrize(
    ("expect", "answer", "reason"),
    [
        ({"exact": "hello", "max_turns": 2, "max_tool_calls": 2, "max_tokens": 10}, agent_run(), None),
        ({"max_turns": 1}, agent_run(), "max_turns 1: it took 2"),
        ({"max_tool_calls": 1}, agent_run(), "max_tool_calls 1: it took 2"),
        ({"max_tokens": 9}, agent_run(), "max_tokens 9: it took 10"),
        ({"tool_calls": [{"name": "noop", "arguments": {"text": "a"}}, {"name": "noop"}]}, agent_run(), None),
        ({"contains": ["hello"]}, agent_run(ok=False, error="turn limit"), "the run failed: turn limit"),
        ({"error": "turn limit"}, agent_run(ok=False, error="agent turn limit exceeded"), None),
        ({"error": "budget"}, agent_run(ok=False, error="agent turn limit exceeded"), "its error is"),
        ({"ok": False}, agent_run(), "the run ended well"),
        ({"ok": True}, {"ok": True}, "an answer of an unexpected shape"),
    ],
)
def test_an_agents_run_is_judged_by_outcome_and_budget(
    bench: Bench, expect: Any, answer: Any, reason: str | None
) -> None:
    code = bench.run(FakeModel({AGENT: [answer]}), case(kind="agent", expect=expect))
    assert code == (0 if reason is None else 1)
    assert (reason or "") in "; ".join(bench.only()["attempts"][0]["reasons"])


@pytest.mark.parametrize(
    ("expect", "scores", "reason"),
    [
        ({"top": 2, "order": [2, 0]}, [(2, 0.9), (0, 0.5), (1, 0.1)], None),
        ({"top": 0}, [(2, 0.9), (0, 0.5)], "the first document is 2, not 0"),
        ({"order": [2, 1]}, [(2, 0.9), (0, 0.5), (1, 0.1)], "the order is [2, 0, 1], not [2, 1]"),
        ({"top": 0}, [], "the first document is none"),
        ({"top": 2}, [(2, 0.1), (0, 0.5)], "do not come best first"),
    ],
)
def test_a_rerank_is_judged_by_its_order(bench: Bench, expect: Any, scores: Any, reason: str | None) -> None:
    answer = {"data": [{"index": index, "relevance_score": score} for index, score in scores], "model": "m"}
    code = bench.run(FakeModel({RERANK: [answer]}), case(kind="rerank", expect=expect))
    assert code == (0 if reason is None else 1)
    assert (reason or "") in "; ".join(bench.only()["attempts"][0]["reasons"])


def test_a_model_that_is_not_there_is_skipped_unless_it_is_required(bench: Bench) -> None:
    gone = FakeModel({CHAT: [Answer(503, (), b'{"error":{"message":"not ready"}}')]})
    assert bench.run(gone, case(), more=()) == 0
    assert bench.only()["outcome"] == "SKIP"
    assert bench.run(gone, case(), more=("--require-backend",)) == 1


def test_a_refusal_is_never_skipped(bench: Bench) -> None:
    assert bench.run(FakeModel({CHAT: [Answer(401, (), b"{}")]}), case(), more=()) == 1


def test_a_gateway_that_is_not_ready_is_not_asked_where_a_model_is_required(bench: Bench) -> None:
    model = FakeModel({CHAT: [stream("hello")]})
    model.ready_status = 503
    assert bench.run(model, case()) == 1
    assert model.asked == []


def test_one_bad_answer_of_three_is_a_failure_with_its_rate(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    model = FakeModel({CHAT: [stream("hello"), stream("bye"), stream("hello")]})
    assert bench.run(model, case(), more=("--repeat", "3", "--require-backend")) == 1
    assert bench.only()["pass_rate"] == pytest.approx(0.6667)
    assert [attempt["outcome"] for attempt in bench.only()["attempts"]] == ["OK", "FAIL", "OK"]
    assert "67% good; without" in capsys.readouterr().out


def test_the_report_may_be_all_that_is_printed(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run(FakeModel({CHAT: [stream("hello")]}), case(), more=("--json",)) == 0
    assert json.loads(capsys.readouterr().out) == bench.report()


def test_every_run_is_kept_and_a_report_holds_the_runs_before_it(bench: Bench) -> None:
    for _ in range(2):
        assert bench.run(FakeModel({CHAT: [stream("hello")]}), case()) == 0
    bench.now += 60
    assert bench.run(FakeModel({CHAT: [stream("bye")]}), case()) == 1
    names = sorted(path.name for path in bench.out.glob("report-*.json"))
    assert names == ["report-20270115T080000Z-2.json", "report-20270115T080000Z.json", "report-20270115T080100Z.json"]
    assert [run["outcome"] for run in bench.only()["history"]] == ["OK", "OK"]
    lines = [json.loads(line) for line in (bench.out / HISTORY).read_text().splitlines()]
    assert [line["ok"] for line in lines] == [True, True, False]
    assert sorted(path.name for path in bench.out.iterdir()) == [HISTORY, LATEST, *names]


def test_a_history_that_a_crash_has_cut_goes_on(bench: Bench) -> None:
    bench.out.mkdir()
    (bench.out / HISTORY).write_text('{"at":"20270101T000000Z","cases":{"one":{"outcome":"OK"}}}\n{"at":"2027')
    assert bench.run(FakeModel({CHAT: [stream("hello")]}), case()) == 0
    assert [run["at"] for run in bench.only()["history"]] == ["20270101T000000Z"]
    assert json.loads((bench.out / HISTORY).read_text().splitlines()[-1])["ok"] is True


def with_baseline(bench: Bench, before: FakeModel, now: FakeModel, *more: str) -> tuple[int, Any]:
    bench.run(before, case("one"), case("two"))
    baseline = bench.out / "baseline.json"
    baseline.write_bytes((bench.out / LATEST).read_bytes())
    code = bench.run(now, case("one"), case("two"), more=("--baseline", str(baseline), *more))
    return code, bench.report()["baseline"]


def test_a_lower_pass_rate_than_the_baselines_is_a_regression(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    good = FakeModel({CHAT: [stream("hello")]})
    code, compared = with_baseline(bench, good, FakeModel({CHAT: [stream("hello"), stream("bye")]}))
    assert code == 1
    assert compared["worse"] == [{"case": "two", "what": "pass rate", "before": 1.0, "now": 0.0}]
    assert "worse: two: pass rate was 1, is 0" in capsys.readouterr().out


def test_what_failed_before_and_fails_still_is_no_regression_but_fails(bench: Bench) -> None:
    bad = FakeModel({CHAT: [stream("bye")]})
    assert with_baseline(bench, bad, bad) == (1, {**bench.report()["baseline"], "worse": []})


def test_a_case_that_is_not_run_any_more_is_a_regression(bench: Bench) -> None:
    gone = FakeModel({CHAT: [Answer(404, (), b"{}")]})
    code, compared = with_baseline(bench, FakeModel({CHAT: [stream("hello")]}), gone)
    assert code == 1
    assert {worse["what"] for worse in compared["worse"]} == {"pass rate"}


@pytest.mark.parametrize(
    ("seconds", "more", "worse"),
    [
        (0.4, (), []),  # 200 ms, half as long again, and 100 ms
        (0.401, (), ["time to the first word in ms", "time in ms"]),
        (0.401, ("--latency-tolerance-percent", "60"), []),
    ],
)
def test_a_longer_time_than_tolerated_is_a_regression(
    bench: Bench, seconds: float, more: tuple[str, ...], worse: list[str]
) -> None:
    before, now = (FakeModel({CHAT: [[took, *stream("hello")]]}) for took in (0.2, seconds))
    code, compared = with_baseline(bench, before, now, *more)
    assert code == (1 if worse else 0)
    assert [one["what"] for one in compared["worse"] if one["case"] == "one"] == worse


def test_cases_that_only_one_of_both_has_are_named_and_are_no_regression(bench: Bench) -> None:
    good = FakeModel({CHAT: [stream("hello")]})
    bench.run(good, case("old"), case("one"))
    baseline = bench.out / LATEST
    assert bench.run(good, case("one"), case("new"), more=("--baseline", str(baseline))) == 0
    assert (bench.report()["baseline"]["gone"], bench.report()["baseline"]["new"]) == (["old"], ["new"])


def stop_at(count: int) -> Any:
    def on_ask(asked: int) -> None:
        if asked == count:
            raise KeyboardInterrupt

    return on_ask


def test_an_interrupted_run_goes_on_where_it_stopped(bench: Bench) -> None:
    cases = (case("one"), case("two"), case("three"))
    first = FakeModel({CHAT: [stream("hello")]}, on_ask=stop_at(3))
    assert bench.run(first, *cases) == 130
    assert len(bench.partials()) == 1
    second = FakeModel({CHAT: [stream("hello")]})
    assert bench.run(second, *cases) == 0
    assert len(second.asked) == 1
    assert bench.report()["totals"]["OK"] == 3
    assert bench.partials() == []


def test_a_line_that_a_crash_has_cut_is_asked_again(bench: Bench) -> None:
    bench.run(FakeModel({CHAT: [stream("hello")]}, on_ask=stop_at(3)), case("one"), case("two"), case("three"))
    (partial,) = bench.partials()
    partial.write_bytes(partial.read_bytes()[:-10])
    second = FakeModel({CHAT: [stream("hello")]})
    assert bench.run(second, case("one"), case("two"), case("three")) == 0
    assert len(second.asked) == 2


@pytest.mark.parametrize(
    ("later_s", "more", "asked"),
    [
        (86_400.0, ("--require-backend",), 1),
        (86_401.0, ("--require-backend",), 2),
        (-60.0, ("--require-backend",), 2),
        (0.0, ("--require-backend", "--fresh"), 2),
        (0.0, (), 2),  # other terms
        (0.0, ("--require-backend", "--ttft-budget-ms", "9"), 2),
    ],
)
def test_only_the_same_run_of_the_last_day_goes_on(
    bench: Bench, later_s: float, more: tuple[str, ...], asked: int
) -> None:
    bench.run(FakeModel({CHAT: [stream("hello")]}, on_ask=stop_at(2)), case("one"), case("two"))
    bench.now += later_s
    second = FakeModel({CHAT: [stream("hello")]})
    assert bench.run(second, case("one"), case("two"), more=more) == 0
    assert len(second.asked) == asked


def test_a_call_without_an_answer_fails_its_case_alone(bench: Bench) -> None:
    model = FakeModel({CHAT: [Unreachable("silent for 180 s"), stream("hello")]})
    assert bench.run(model, case("one"), case("two")) == 1
    assert [found["outcome"] for found in bench.report()["cases"]] == ["FAIL", "OK"]


def test_a_gateway_that_is_gone_ends_the_run_and_the_next_goes_on(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    model = FakeModel({CHAT: [stream("hello"), Unreachable("connection refused")]})

    def leave(count: int) -> None:
        model.gone = count == 2

    model.on_ask = leave
    assert bench.run(model, case("one"), case("two")) == 1
    assert "goes on where this one stopped" in capsys.readouterr().err
    back = FakeModel({CHAT: [stream("hello")]})
    assert bench.run(back, case("one"), case("two")) == 0
    assert len(back.asked) == 1


@pytest.mark.parametrize(
    "more",
    [("--repeat", "0"), ("--ttft-budget-ms", "0"), ("--baseline", "/nowhere"), ("--start-server",), ("--nothing",)],
)
def test_wrong_usage_is_2(bench: Bench, more: tuple[str, ...]) -> None:
    assert bench.run(FakeModel({CHAT: [stream("hello")]}), case(), more=more) == 2


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"schema":"other"}', '{"schema":"appliance_evals_report.v1","cases":[{}]}']
)
def test_a_baseline_that_is_no_report_is_2(bench: Bench, tmp_path: Path, text: str) -> None:
    (tmp_path / "baseline.json").write_text(text)
    model = FakeModel({CHAT: [stream("hello")]})
    assert bench.run(model, case(), more=("--baseline", str(tmp_path / "baseline.json"))) == 2
    assert not bench.out.exists()


def test_a_place_where_nothing_can_be_written_is_said(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.out.write_text("a file")
    assert bench.run(FakeModel({CHAT: [stream("hello")]}), case()) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_no_token_is_2(bench: Bench) -> None:
    bench.golden.write_text(json.dumps({"schema": "appliance_evals.v1", "cases": [case()]}))
    assert main(["--base-url", "http://x", "--golden", str(bench.golden)], {}) == 2


def test_every_flag_and_every_expectation_is_on_the_page() -> None:
    page = (ROOT / "docs" / "evals.md").read_text()
    flags = set(re.findall(r"--[a-z-]+", make_parser().format_help())) - {"--help"}
    names = {name for rules in EXPECT.values() for name in rules} | set(KEYWORDS)
    assert {name for name in flags | names if f"`{name}`" not in page} == set()


def test_the_example_passes_on_the_scripted_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = str(ROOT / "docs" / "examples" / "evals.json")
    roomy = ["--ttft-budget-ms", "60000", "--total-budget-ms", "120000"]
    assert main(["--start-server", "--golden", golden, "--out-dir", str(tmp_path), *roomy]) == 0, (
        capsys.readouterr().out
    )
    report = json.loads((tmp_path / LATEST).read_text())
    assert report["totals"] == {"OK": len(report["cases"]), "SKIP": 0, "FAIL": 0}
    assert report["readyz"]["ready"] == ["mock"]
