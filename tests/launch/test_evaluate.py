"""launch.evaluate and launch.report as a user starts them: one-line errors, a small evaluation, and being killed."""

import json
import random
import shutil
import signal
import subprocess
import sys

import pytest

from tests.marks import slow

COMMAND = [sys.executable, "-m", "launch.evaluate"]


def run(*flags, module="launch.evaluate"):
    command = [sys.executable, "-m", module, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize(
    "flags, status, message",
    [
        (["--context_lengths=abc"], 2, "--context_lengths must be whole numbers of at least 64 tokens"),
        (["--methods=foo"], 2, "unknown method 'foo'; known: lc, rag, sd, rapid"),
        (["--limit=0"], 2, "--limit=0"),
        (["--benchmark=arc"], 2, "--benchmark=arc"),
        (["--benchmark=infinitebench"], 2, "--benchmark=infinitebench needs --data=PATH"),
        (
            ["--benchmark=specbench", "--data=x", "--methods=lc,rapid"],
            2,
            "rapid retrieves, and specbench has no documents",
        ),
        (["--benchmark=longbench_v2", "--data=no/such.json"], 1, "no/such.json"),
        (["--sweep=eta"], 2, "--sweep: a sweep is NAME=VALUE"),
        (["--sweep=gamma=0"], 2, "gamma must be at least 1 token"),
        (["--benchmark=specbench", "--data=x", "--methods=lc", "--rules=1"], 2, "--rules needs passages"),
        (["--context_lengths=200000"], 1, "200000 tokens are more than the model has room for"),
        (["--sweep=drafter=no/such"], 1, "no/such"),
        (["--tasks=riddle"], 1, "tasks must be some of fact, choice, dossier, whole"),
        (
            ["--context_lengths=99999999999999999999"],
            2,
            "--context_lengths must be whole numbers of at least 64 tokens",
        ),
        (["--context_lengths=\u00b2"], 2, "--context_lengths must be whole numbers"),
        (["--batch=99999999999999999999"], 2, "--batch=99999999999999999999"),
        (["--limit=99999999999999999999"], 2, "--limit=99999999999999999999"),
        (["--seed=99999999999999999999"], 2, "--seed=99999999999999999999"),
        (["--prompts=x"], 2, "--prompts is for infinitebench and longbench_v2, this is --benchmark=archive"),
        (["--config.evaluation.retrieval_query=x"], 2, "retrieval_query must be one of question, question_and_choices"),
        (["--config.sampling.from_checkpoint=top_k,top_q"], 2, "from_checkpoint must be names of temperature"),
        (["--max_new_tokens=0"], 2, "--max_new_tokens=0"),
        (["--max_new_tokens=8", "--sweep=max_new_tokens=4,8"], 2, "leave one of them out"),
        (["--output=setup.cfg"], 1, "--output=setup.cfg is a file"),
        (["--shard=4/4", "--output=x"], 2, "--shard: shards are counted from 0: of 4 the last one is 3/4, got 4/4"),
        (["--shard=1", "--output=x"], 2, "--shard: a shard is I/N with I from 0 to N-1, such as 0/4 to 3/4, got '1'"),
        (["--shard=0/4"], 2, "--shard needs --output=DIR"),
    ],
)
def test_bad_flags_are_one_line(flags, status, message):
    """A long evaluation must not start, or end in a traceback, over a misspelt flag."""
    done = run(*flags)
    assert done.returncode == status and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ([], 2, "DIR or FILE.jsonl is missing"),
        (["a", "b"], 2, "2 directories are merged into one: name it with --output=DIR"),
        (["a", "--partial"], 2, "--partial is for merging shards"),
        (["no/such/directory"], 1, "holds no results"),
        (["no/such/directory", "other", "--output=merged"], 1, "no/such/directory holds no results"),
    ],
)
def test_a_report_of_nothing_is_one_line(arguments, status, message):
    """A report of a misspelt directory must say what is missing."""
    done = run(*arguments, module="launch.report")
    assert done.returncode == status and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.fixture
def evaluate(launch, tiny_checkpoint, tmp_path):
    """A function: name of the results and flags -> Outcome of a small evaluation with the tiny checkpoint."""
    sizes = ("--config.prefill_chunk=256", "--config.retrieval.chunk_tokens=128", "--batch=2")

    def run(name, *flags):
        return launch("evaluate", f"--target={tiny_checkpoint}", f"--output={tmp_path / name}", *sizes, *flags)

    return run


def test_one_bad_record_does_not_end_an_evaluation(evaluate, launch, tmp_path):
    """The others are answered; the bad ones are recorded by their line, counted, and the exit status says so."""
    good = {"context": "A lamp is in house 7. " * 9, "input": "Where is the lamp?", "answer": ["house 7"]}
    lines = [good, {**good, "input": " "}, {**good, "input": "What is lit \ud800?"}, {**good, "context": "?! ..."}]
    data = tmp_path / "longbook_qa_eng.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{cut off\n")
    flags = ("--benchmark=infinitebench", f"--data={data}", "--methods=lc,rag", "--sampling=config")
    outcome = evaluate("out", *flags)
    assert outcome.status == 1
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    failed = {record["item"]: record["failed"] for record in records if "failed" in record}
    assert len(records) == 10 and {"longbook_qa_eng-1", "longbook_qa_eng-4"} <= set(failed)
    assert "longbook_qa_eng.jsonl, line 2: field 'input'" in failed["longbook_qa_eng-1"]
    assert "longbook_qa_eng.jsonl, line 5: not JSON" in failed["longbook_qa_eng-4"]
    answered = {record["item"] for record in records if "scores" in record}
    assert {"longbook_qa_eng-0", "longbook_qa_eng-2"} <= answered
    (last,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert "of 10 answers failed, the first: longbook_qa_eng-1 with lc: " in last
    assert "Not answered" in outcome.out and "Traceback" not in outcome.err
    again = evaluate("out", *flags)
    assert again.status == 1 and len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 10
    drawn = launch("report", tmp_path / "out", "--timings=false")
    assert drawn.status == 0, drawn.err
    assert "; failed: 4; " in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("flags, rule", [((), "none"), (("--config.speculation.length_rule=lossless",), "lossless")])
def test_methods_are_compared_with_their_drafts(evaluate, tmp_path, flags, rule):
    """A figure of `sd` that has drafted nothing would be one of `lc`, unless that is what is measured."""
    data = tmp_path / "longbook_qa_eng.jsonl"
    item = {"context": "A lamp is in house 7. " * 9, "input": "Where is the lamp?", "answer": ["house 7"]}
    data.write_text(json.dumps(item) + "\n")
    outcome = evaluate(
        "out", "--benchmark=infinitebench", f"--data={data}", "--methods=lc", "--max_new_tokens=2", *flags
    )
    assert outcome.status == 0, outcome.err
    config = json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]
    assert config["speculation"]["length_rule"] == rule


def test_a_run_goes_on_on_another_day_with_the_date_of_its_prompts(evaluate, tmp_path):
    """A chat template that writes the date would give half of the questions other prompts, or refuse the rest of them."""
    data = tmp_path / "longbook_qa_eng.jsonl"
    item = {"context": "A lamp is in house 7. " * 9, "input": "Where is the lamp?", "answer": ["house 7"]}
    data.write_text(json.dumps(item) + "\n")
    flags = (
        "--benchmark=infinitebench",
        f"--data={data}",
        "--methods=lc",
        "--sampling=config",
        "--config.sampling.max_new_tokens=4",
    )
    assert evaluate("days", *flags, "--config.chat.date=2020-01-01").status == 0
    again = evaluate("days", *flags)
    assert again.status == 0, again.err
    assert json.loads((tmp_path / "days" / "manifest.json").read_text())["config"]["chat"]["date"] == "2020-01-01"
    assert "chat.date" in evaluate("days", *flags, "--config.chat.date=2021-01-01").err


ARCHIVES = ("--archives=2", "--tasks=fact,choice", "--max_new_tokens=4", "--config.chat.date=2026-01-02")


@pytest.fixture
def merged(evaluate, launch, tmp_path):
    """A function: number of shards, flags -> reports of an unsharded run and of the merged shards, without timings.

    The first shard is killed before its end and goes on. It has the bad record, if the benchmark has one.
    """

    def run(count, *flags, bad=False):
        assert evaluate("whole", *flags).status == bad
        for index in range(count):
            outcome = evaluate(f"shard-{index}", *flags, f"--shard={index}/{count}")
            assert outcome.status == (bad and index == 0), outcome.err
            assert f"directories of all {count} shards" in outcome.out
        results = tmp_path / "shard-0" / "results.jsonl"
        text = results.read_bytes()
        results.write_bytes(text[: len(text) // 2])
        refused = launch("report", tmp_path / "shard-0", tmp_path / "shard-1", f"--output={tmp_path / 'merged'}")
        assert refused.status == 1 and f"shard 0/{count} lacks" in refused.err
        assert evaluate("shard-0", *flags, f"--shard=0/{count}").status == bad
        shards = [tmp_path / f"shard-{index}" for index in range(count)]
        assert launch("report", "--timings=false", tmp_path / "whole").status == 0
        drawn = launch("report", "--timings=false", *shards, f"--output={tmp_path / 'merged'}")
        assert drawn.status == 0 and str(tmp_path / "merged" / "report.html") in drawn.out, drawn.err
        return [(tmp_path / name / "report.html").read_text() for name in ("whole", "merged")]

    return run


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (("--context_lengths=300", "--limit=2", "--methods=lc"), ("8 answers; items: 8; documents: 2;",)),
        slow(
            (
                "--context_lengths=300,360",
                "--limit=1",
                "--methods=lc,rapid",
                "--sweep=unrelated=false,true",
                "--rules=1",
            ),
            ("24 answers; items: 8; documents: 4;", "Verification rules", "unrelated passages"),
        ),
    ],
    ids=["archives", "swept"],
)
def test_merged_shards_give_the_report_of_an_unsharded_run(merged, evaluate, tmp_path, flags, shown):
    """Independent jobs: batches, sweeps, lengths, limits and rules as in one, also where a job was killed."""
    whole, together = merged(2, *ARCHIVES, *flags)
    assert whole == together and all(text in whole for text in shown)
    lines = [
        [json.loads(line) for line in (tmp_path / name / "results.jsonl").read_text().splitlines()]
        for name in ("whole", "merged", "shard-0", "shard-1")
    ]
    for one, other in zip(*lines[:2], strict=True):
        assert [one[name] for name in ("key", "prompt_hash", "scores", "batch")] == [
            other[name] for name in ("key", "prompt_hash", "scores", "batch")
        ]
        assert one["turns"][0]["token_ids"] == other["turns"][0]["token_ids"]
    documents = [{record["source"] for record in records} for records in lines[2:]]
    assert len(documents[0]) == len(documents[1]) and documents[0].isdisjoint(documents[1])


def test_a_shard_goes_on_as_itself_alone(evaluate, tmp_path, caplog):
    """Another shard in its directory would ask some questions twice and leave others out; so would another number."""
    flags = (*ARCHIVES[:-1], "--context_lengths=300", "--limit=1", "--methods=lc", "--archives=3")
    first = evaluate("out", *flags, "--shard=1/2")
    assert first.status == 0 and "--shard without --config.chat.date=YEAR-MONTH-DAY" in caplog.text, first.err
    for other in ("0/2", "1/3"):
        refused = evaluate("out", *flags, f"--shard={other}")
        (line,) = [line for line in refused.err.splitlines() if line.startswith("error: ")]
        assert refused.status == 1 and f"shard.part = '1/2', this run has '{other}': name another directory" in line
    too_many = evaluate("new", *flags, "--shard=0/4")
    assert too_many.status == 1 and not (tmp_path / "new").exists()
    wanted = "error: 4 shards are more than the 3 documents or conversations that are asked about: take 3 at most\n"
    assert too_many.err == wanted


@pytest.mark.slow
def test_shards_of_conversations_and_of_bad_records_are_merged(merged, tmp_path):
    """A benchmark without documents is spread by its conversations; what cannot be asked is some shard's too."""
    categories = ("writing", "coding", "qa", "qa", "no category", "math", "rag")
    records = [
        {"question_id": n, "category": category, "turns": ["Where is the lamp?", "Who has it?"][: 1 + n % 2]}
        for n, category in enumerate(categories)
    ]
    data = tmp_path / "question.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    flags = (
        "--benchmark=specbench",
        f"--data={data}",
        "--methods=lc,pld",
        "--sweep=temperature=0,1",
        "--max_new_tokens=3",
    )
    whole, together = merged(3, *flags, "--config.chat.date=2026-01-02", bad=True)
    assert whole == together and "24 answers; failed: 4; items: 6;" in whole


def test_documents_with_one_question_each_are_batched_across_if_asked_to(evaluate, tmp_path):
    """Speeds of both kinds of batches in one table would mean nothing; results of before the flag go on without it."""
    data = tmp_path / "longbook_qa_eng.jsonl"
    items = [
        {"context": f"A lamp is in house {n}. " * n, "input": "Where is the lamp?", "answer": ["house"]}
        for n in (9, 12, 5)
    ]
    data.write_text("".join(json.dumps(item) + "\n" for item in items))
    flags = ("--benchmark=infinitebench", f"--data={data}", "--methods=lc", "--sampling=config", "--max_new_tokens=4")
    assert evaluate("each", *flags).status == 0
    manifest = json.loads((tmp_path / "each" / "manifest.json").read_text())["benchmark"]
    assert "across_documents" not in manifest
    assert evaluate("each", *flags).status == 0
    refused = evaluate("each", *flags, "--across_documents")
    assert refused.status == 1 and "benchmark.across_documents = None, this run has True" in refused.err
    assert evaluate("together", *flags, "--across_documents").status == 0
    found = []
    for name in ("each", "together"):
        lines = (tmp_path / name / "results.jsonl").read_text().splitlines()
        found.append({record["item"]: record for record in map(json.loads, lines)})
    each, together = found
    assert {item: record["turns"][0]["token_ids"] for item, record in each.items()} == {
        item: record["turns"][0]["token_ids"] for item, record in together.items()
    }
    assert [record["batch"]["row"] for record in each.values()] == [0, 0, 0]
    assert [record["batch"]["row"] for record in together.values()] == [0, 1, 0]


@pytest.mark.slow
def test_spec_bench_is_cut_counted_by_task_and_tells_its_programs(evaluate, launch, tmp_path, compilation_shown):
    """As its published tables: so many questions of each task, tokens a step, speed-up over lc at each temperature."""
    categories = (("writing", 2), ("writing", 2), ("coding", 2), ("qa", 1), ("qa", 1), ("qa", 1))
    records = [
        {"question_id": n, "category": category, "turns": ["Where is the lamp?", "Who has it?"][:turns]}
        for n, (category, turns) in enumerate(categories)
    ]
    data = tmp_path / "question.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    flags = ("--benchmark=specbench", f"--data={data}", "--methods=lc,pld", "--sweep=temperature=0,1", "--limit=2")
    outcome = evaluate("out", *flags, "--max_new_tokens=3")
    assert outcome.status == 0, outcome.err
    answers = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert len(answers) == 4 * 4 and {answer["item"] for answer in answers} == {"0", "2", "3", "4"}
    assert all(len(turn["token_ids"]) <= 3 for answer in answers for turn in answer["turns"])
    assert {len(answer["turns"]) for answer in answers if answer["task"] == "mt_bench"} == {2}
    seconds = [turn["seconds"]["compile"] for answer in answers for turn in answer["turns"]]
    assert not any(seconds), "what a first execution sets up would count against lc, which is asked first"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["benchmark"]["max_new_tokens"] == manifest["config"]["sampling"]["max_new_tokens"] == 3
    columns = ("multi-turn conversation (2)", "question answering (2)", "overall (4)")
    rows = [f"{method} (temperature {t})" for method in ("lc", "pld") for t in (0, 1)]
    assert all(outcome.out.count(name) >= 3 for name in (*columns, *rows))
    assert "Tokens per step by task" in outcome.out and "Speed-up by task" in outcome.out
    (line,) = [line for line in outcome.out.splitlines() if " programs were compiled in " in line]
    assert 1 < int(line.split()[0]) < 40 and compilation_shown == {"_Compilations"}
    assert launch("report", tmp_path / "out").status == 0
    page = (tmp_path / "out" / "report.md").read_text()
    assert line in page and all(f"| {name} " in page for name in (*columns, *rows))
    other = evaluate("out", *flags, "--max_new_tokens=4")
    assert other.status == 1 and "fingerprints" in other.err
    again = evaluate("out", *flags, "--max_new_tokens=3")
    assert again.status == 0 and "No program was compiled" in again.out


def test_nothing_but_bad_records_is_another_file(evaluate, tmp_path):
    """A file of another benchmark must be refused before a model is loaded."""
    data = tmp_path / "data.json"
    data.write_text(json.dumps([{"id": 1, "text": "x"}] * 3))
    outcome = evaluate("out", "--benchmark=longbench_v2", f"--data={data}")
    assert outcome.status == 1 and "data.json, record 1: field 'question' is missing" in outcome.err
    assert outcome.err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_damaged_results_are_named_before_a_question_is_asked_again(evaluate, launch, tmp_path):
    """By a resumed evaluation and by a report alike, in one line."""
    flags = ("--context_lengths=300", "--archives=1", "--limit=1", "--tasks=fact", "--methods=lc")
    assert evaluate("out", *flags).status == 0
    results, manifest = tmp_path / "out" / "results.jsonl", tmp_path / "out" / "manifest.json"
    line, settings = results.read_text(), manifest.read_text()
    results.write_text(line + line)
    assert evaluate("out", *flags).status == 0
    assert results.read_text() == line + line
    assert launch("report", tmp_path / "out").status == 0
    assert "1 answers; items: 1;" in (tmp_path / "out" / "report.md").read_text()
    results.write_text(line + json.dumps({**json.loads(line), "key": "x", "scores": {"score": float("nan")}}) + "\n")
    for act in (lambda: evaluate("out", *flags), lambda: launch("report", tmp_path / "out")):
        outcome = act()
        assert outcome.status == 1 and f"{results}, line 2: not a result of an evaluation" in outcome.err
        assert len([text for text in outcome.err.splitlines() if text.startswith("error")]) == 1
    results.write_text(line)
    for contents in ("[]", "{}", settings[:50]):
        manifest.write_text(contents)
        for act in (lambda: evaluate("out", *flags), lambda: launch("report", tmp_path / "out")):
            outcome = act()
            assert outcome.status == 1 and str(manifest) in outcome.err and "Traceback" not in outcome.err


@pytest.mark.slow
def test_the_published_evaluation_of_rapid_is_run_with_its_settings(launch, tiny_checkpoint, tmp_path):
    """One config file sets all that differs; every setting is recorded with the results."""
    record = {"_id": "a", "difficulty": "easy", "length": "short", "question": "Who sings?", "answer": "A",
              "context": "Somebody sings in house 7. " * 30, **{f"choice_{x}": x * 3 for x in "ABCD"}}  # fmt: skip
    (tmp_path / "data.json").write_text(json.dumps([record]))
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"do_sample": True, "top_k": 20}))
    sizes = ("--config.prefill_chunk=256", "--config.retrieval.chunk_tokens=128", "--config.dtype=float32")
    outcome = launch(
        "evaluate",
        "--config=configs/official_rapid.py",
        f"--target={tmp_path / 'model'}",
        *sizes,
        "--benchmark=longbench_v2",
        f"--data={tmp_path / 'data.json'}",
        "--context_lengths=900",
        "--methods=lc,rag,rapid",
        f"--output={tmp_path / 'out'}",
    )
    assert outcome.status == 0, outcome.err
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [record["method"] for record in records] == ["lc", "rag", "rapid"]
    settings = records[-1]["settings"]
    assert (settings["top_k"], settings["temperature"], settings["stop_confidence"]) == (20, 0.1, 0.1)
    config = json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]
    assert config["evaluation"]["retrieval_query"] == "question_and_choices"
    assert config["sampling"]["top_k"] == 20 and config["retrieval"]["count_from"] == "truncated"


SMALL = ("--context_lengths=300", "--archives=1", "--limit=2", "--batch=2", "--methods=lc,rapid")


@pytest.mark.slow
def test_answers_are_scored_stored_and_reported(tmp_path):
    """From the command to the page: every answer is a line, and the tables name what was asked."""
    output = tmp_path / "out"
    done = run(*SMALL, "--sweep=eta=0,10", "--rules=1", f"--output={output}")
    assert done.returncode == 0, done.stderr
    lines = (output / "results.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert {(r["method"], r["variation"].get("eta")) for r in records} == {
        ("lc", None),
        ("rapid", 0.0),
        ("rapid", 10.0),
    }
    assert all(0 <= r["scores"]["score"] <= 1 and r["context_length"] == 300 for r in records)
    assert "300 tokens" in done.stdout and "rapid (eta 10)" in done.stdout and "speed-up, decode only" in done.stdout
    changed = run(*SMALL, "--config.speculation.gamma=3", f"--output={output}")
    assert changed.returncode == 1 and "config.speculation.gamma = 10, this run has 3" in changed.stderr
    drawn = run(str(output), module="launch.report")
    assert drawn.returncode == 0, drawn.stderr
    text = (output / "report.md").read_text(encoding="utf-8")
    assert "## Verification rules" in text and "### Differences" in text
    assert "<svg" in (output / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_evaluation_killed_ten_times_gives_the_undisturbed_report(tmp_path):
    """kill -9 at random moments: nothing is lost, repeated or changed."""
    flags = ("--context_lengths=300,400", "--archives=2", "--limit=4", "--batch=2", "--methods=lc,sd")
    cache = f"--compilation_cache_dir={tmp_path / 'cache'}"
    assert run(*flags, cache, f"--output={tmp_path / 'whole'}").returncode == 0
    rng = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(
            [*COMMAND, *flags, cache, f"--output={tmp_path / 'killed'}"], stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=rng.uniform(3, 9))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert run(*flags, cache, f"--output={tmp_path / 'killed'}").returncode == 0
    reports = []
    for name in ("whole", "killed"):
        assert run(str(tmp_path / name), "--timings=false", module="launch.report").returncode == 0
        reports.append((tmp_path / name / "report.html").read_text(encoding="utf-8"))
    assert reports[0] == reports[1]
