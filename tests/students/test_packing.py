"""Packed rows: bins that fit, rows that never see each other, and the gradients of the same rows padded."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import find_packed_sequence_indices

from distill.core import tables
from distill.core.errors import DistillError
from students import isolation, train
from students.collate import IGNORED, Collator, epoch_order, planned
from students.isolation import positions
from students.packing import Layout, Pass, best_fit, padded
from students.rows import Row
from students.teacher_logits import TeacherLogits
from tests.students.gloo import on_ranks
from tests.students.made import stage_of
from tests.students.test_train import PACKED, SHORT, twelve
from tests.students.test_trainer import (
    K,
    OwnLogits,
    Poisoned,
    farthest,
    load,
    lora,
    matching,
    rows_of,
    teacher,
    told_apart,
    trainer_of,
    weights,
)
from tests.tiny import make_tiny_model

__all__ = ["teacher"]  # a fixture of test_trainer

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(LENGTHS, st.integers(20, 80))
def test_every_row_is_in_one_bin_that_holds_it(lengths: list[int], capacity: int) -> None:
    bins = best_fit(lengths, capacity)
    assert sorted(place for one in bins for place in one) == list(range(len(lengths)))
    for one in bins:
        assert sum(lengths[place] for place in one) <= capacity or len(one) == 1
    assert bins == best_fit(lengths, capacity)
    fills = sorted(sum(lengths[place] for place in one) for one in bins)
    assert all(one + other > capacity for one, other in pairwise(fills))  # no two would be one


@given(LENGTHS, st.integers(20, 80))
def test_padded_groups_stay_within_the_tokens_of_a_pass(lengths: list[int], capacity: int) -> None:
    groups = padded(lengths, capacity)
    assert sorted(place for one in groups for place in one) == list(range(len(lengths)))
    for one in groups:
        assert max(lengths[place] for place in one) * len(one) <= capacity or len(one) == 1


def test_bins_by_hand() -> None:
    assert Layout(10, packed=True).passes([7, 6, 3, 4]) == [[0, 2], [1, 3]]
    assert Layout(10).passes([3, 6, 3, 4]) == [[1], [3, 0], [2]]
    assert Layout().passes([3, 6]) == [[0, 1]]


def test_bins_of_real_lengths_are_nearly_full() -> None:
    """64 rows a step with the spread of reasoning traces (log-normal, median 2,000 tokens), 16,384 a pass."""
    draw = np.random.default_rng(0)
    fill = []
    for _ in range(20):
        lengths = np.minimum(draw.lognormal(np.log(2000), 0.8, 64).astype(int), 16_384).tolist()
        bins = best_fit(lengths, 16_384)
        fill.append(sum(lengths) / (16_384 * len(bins)))
    assert np.mean(fill) > 0.93


def test_a_packed_sequence_by_hand() -> None:
    rows = [Row("a", np.array([5, 6, 7], np.int32), 2), Row("b", np.array([8, 9, 10, 11], np.int32), 1)]
    (batch,) = Collator(rows, None, Layout(8, packed=True))([{"row": 0}, {"row": 1}])["passes"]
    assert batch["rows"].tolist() == [[1, 0]]
    assert batch["input_ids"].tolist() == [[8, 9, 10, 11, 5, 6, 7]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert batch["labels"].tolist() == [[IGNORED, 9, 10, 11, IGNORED, IGNORED, 7]]  # a row's first token never counts
    assert "attention_mask" not in batch
    with pytest.raises(ValueError, match="nothing stands before"):
        Collator([Row("c", np.array([1, 2], np.int32), 0)], None)([{"row": 0}])


def test_transformers_tells_packed_rows_by_their_positions() -> None:
    """What the mask is made from; an all-ones mask beside them would switch it off."""
    assert find_packed_sequence_indices(positions([3, 2, 1])).tolist() == [[0, 0, 0, 1, 1, 2]]
    assert find_packed_sequence_indices(positions([6])) is None


@pytest.mark.parametrize("attention", isolation.SQUARE)
@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("qwen3", {}),
        ("qwen2", {}),
        ("llama", {}),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}),
        ("smollm3", {}),
        ("granite", {}),
        ("cohere", {}),
        ("olmo2", {}),
    ],
)
def test_packed_logits_are_those_of_each_row_alone(
    tmp_path: Path, architecture: str, config: dict[str, Any], attention: str
) -> None:
    folder = make_tiny_model(tmp_path / "m", architecture=architecture, **config)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()
    isolation.check(model, 100)
    isolation.prove(model)
    documents = [torch.from_numpy(row.ids).long() for row in rows_of(folder, 5)]
    lengths = [len(ids) for ids in documents]
    with torch.no_grad():
        packed = model(torch.cat(documents)[None], position_ids=positions(lengths), use_cache=False).logits[0]
        for ids, logits in zip(documents, packed.split(lengths), strict=True):
            assert (logits - model(ids[None], use_cache=False).logits[0]).abs().max() < 1e-4
        leaking = model(
            torch.cat(documents)[None],
            position_ids=positions(lengths),
            attention_mask=torch.ones(1, sum(lengths), dtype=torch.long),
            use_cache=False,
        ).logits[0]
    assert (leaking - packed)[lengths[0] :].abs().max() > 0.1  # what an all-ones mask would do, without a word


def test_the_proof_sees_a_model_that_ignores_positions(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny_model)
    training = model.training
    inner = model.base_model.forward
    monkeypatch.setattr(
        model.base_model,
        "forward",
        lambda input_ids, position_ids=None, use_cache=False: inner(input_ids=input_ids, use_cache=False),
    )
    with pytest.raises(DistillError, match=r"lets packed rows see each other.*packing: false"):
        isolation.prove(model)
    assert model.training == training
    broken = load(tiny_model)
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(DistillError, match="see each other"):
        isolation.prove(broken)


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("gemma2", {}, "layers of sliding_attention"),
        ("mistral", {"sliding_window": 16}, "layers of sliding_attention"),
        ("qwen3_next", {"num_experts": 0, "decoder_sparse_step": 0}, "layers of linear_attention"),
        ("mamba", {}, "layers of linear_attention"),
        ("bloom", {}, "takes no position_ids"),
    ],
)
def test_models_that_remember_or_look_through_a_window_are_refused(
    architecture: str, config: dict[str, Any], message: str
) -> None:
    settings = AutoConfig.for_model(
        architecture, vocab_size=64, hidden_size=32, num_hidden_layers=2, intermediate_size=32, **config
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    with pytest.raises(DistillError, match=message):
        isolation.check(model, 100)


def test_long_sequences_and_unknown_attention_are_refused(tiny_model: Path) -> None:
    model = load(tiny_model)
    isolation.check(model, 16_384)
    with pytest.raises(DistillError, match=r"32,768 x 32,768 entries, 5\.0 GiB.*at most 16,384"):
        isolation.check(model, 32_768)
    model.config._attn_implementation = "eager"
    with pytest.raises(DistillError, match="at most 4,096"):
        isolation.check(model, 4_097)
    for attention in isolation.BY_BOUNDS:
        model.config._attn_implementation = attention
        isolation.check(model, 1_000_000)
    model.config._attn_implementation = "paged|sdpa"
    with pytest.raises(DistillError, match=r"attention `paged\|sdpa`"):
        isolation.check(model, 100)


def test_attention_is_computed_as_asked_for_or_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny_model)
    isolation.use(model, None)
    assert model.config._attn_implementation == "sdpa"
    isolation.use(model, "eager")
    assert model.config._attn_implementation == "eager"

    def missing(_: str) -> None:
        raise ImportError("the package for FlashAttention2 is not installed\nand more")

    monkeypatch.setattr(model, "set_attn_implementation", missing)
    with pytest.raises(DistillError, match="`train.attention: flash_attention_2` cannot be had .* not installed$"):
        isolation.use(model, "flash_attention_2")


def test_the_proof_holds_under_autocast(tiny_model: Path) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        isolation.prove(load(tiny_model))


def layouts(tmp_path: Path, folder: Path, teacher: TeacherLogits, **settings: Any) -> dict[str, Any]:
    """Weights and history after two steps of the same rows, laid out in four ways."""
    rows, got = rows_of(folder), {}
    order = epoch_order([len(row.ids) for row in rows], 8, 0, 0)
    for name, layout in {
        "rows": Layout(), "tokens": Layout(150), "packed": Layout(150, packed=True), "one": Layout(4000, packed=True),
    }.items():  # fmt: skip
        trainer = trainer_of(
            tmp_path / name, folder, rows, teacher, match=matching(), micro=8, optim="sgd", learning_rate=0.1,
            layout=layout, **{key: value() if key == "peft" else value for key, value in settings.items()},
        )  # fmt: skip
        trainer._get_train_sampler = lambda _=None: order.tolist()  # the same rows a step
        got[name] = (trainer.run(), weights(trainer))
    return got


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("peft", [None, lora])
def test_packed_is_padded(
    tmp_path: Path, tiny_model: Path, teacher: TeacherLogits, peft: Any, checkpointing: bool
) -> None:
    """Two SGD steps of the same rows, some without a teacher: side by side, by tokens, packed, all in one sequence."""
    settings = {"activation_checkpointing": checkpointing, **({"peft": peft} if peft else {})}
    got = layouts(tmp_path, tiny_model, teacher, **settings)
    history, expected = got.pop("rows")
    for mine, learned in got.values():
        assert farthest(learned, expected) < 1e-6
        for record, other in zip(mine, history, strict=True):
            assert record == pytest.approx(other, rel=1e-5)


def test_packed_rows_train_alike_on_eager_attention(tmp_path: Path, tiny_model: Path, teacher: TeacherLogits) -> None:
    rows, got = rows_of(tiny_model, 6), []
    for layout in (Layout(), Layout(200, packed=True)):
        model = load(tiny_model)
        model.set_attn_implementation("eager")
        trainer = trainer_of(tmp_path, tiny_model, rows, teacher, model=model, match=matching(), micro=6, layout=layout)
        batches = trainer.data_collator([{"row": n} for n in range(6)])
        got.append(sum(trainer._forward(one).loss.item() for one in batches.get("passes", [batches])))
    assert got[1] == pytest.approx(got[0], rel=1e-6)


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_self_distillation_stays_zero_when_rows_are_packed(tmp_path: Path, tiny_model: Path, shift: int) -> None:
    rows = rows_of(tiny_model, 6)
    own = OwnLogits(tiny_model, rows, K, shift)
    trainer = trainer_of(tmp_path, tiny_model, rows, own, match=matching(), micro=6, layout=Layout(2000, packed=True))
    (batch,) = trainer.data_collator([{"row": n} for n in range(6)])["passes"]
    with torch.no_grad():
        mean = float(trainer._forward(batch).kd) / int(batch["teacher_present"].sum())
    assert abs(mean) < 1e-6 if shift == 0 else mean > 0.05


def test_a_step_without_a_trained_token_moves_nothing(tmp_path: Path, tiny_model: Path, teacher: TeacherLogits) -> None:
    """What a process gets that has fewer passes than another: zero loss, zero gradient, every parameter reached."""
    trainer = trainer_of(
        tmp_path, tiny_model, rows_of(tiny_model, 4), teacher, match=matching(), layout=Layout(100, packed=True)
    )
    loss = trainer.compute_loss(trainer.model, trainer.collator.nothing(), num_items_in_batch=5)
    loss.backward()
    assert loss.item() == 0
    gradients = [p.grad for p in trainer.model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_the_plan_that_is_left_is_what_was_trained(tmp_path: Path, tiny_model: Path) -> None:
    seen: list[list[int]] = []
    inner = Collator.batch

    class Spy(Collator):
        def batch(self, sequences: Any) -> Any:
            seen.extend([list(one) for one in sequences])
            return inner(self, sequences)

    rows, layout = rows_of(tiny_model), Layout(120, packed=True)
    trainer = trainer_of(tmp_path, tiny_model, rows, micro=5, num_train_epochs=2, layout=layout, collator=Spy)
    trainer.run()
    plan = list(planned(rows, 5, 0, 2, layout))
    number = {row.key: n for n, row in enumerate(rows)}
    assert seen == [[number[key] for key in one.samples] for one in plan]
    assert [len({(one.epoch, one.step) for one in plan if one.epoch == epoch}) for epoch in (0, 1)] == [3, 3]
    assert all(one.tokens <= 120 for one in plan)


def test_the_stage_leaves_its_plan_and_the_same_student_whatever_the_bins(tmp_path: Path, tiny_model: Path) -> None:
    histories = []
    for tokens in (None, 100):
        stage = stage_of(
            tmp_path / str(tokens),
            tiny_model,
            train_settings={**SHORT, **PACKED, "micro_batch_tokens": tokens, "attention": "eager" if tokens else None},
            traces=twelve(tiny_model),
        )
        train.run(stage)
        plan = tables.read(stage.out / "passes.parquet", Pass)
        assert sorted(key for one in plan if one.epoch == 1 for key in one.samples) == sorted(
            trace.key for trace in twelve(tiny_model)
        )
        assert max(one.tokens for one in plan) <= (tokens or 100)
        histories.append(train.files.read_json(stage.out / "history.json"))
    assert [r["loss"] for r in histories[0]] == pytest.approx([r["loss"] for r in histories[1]], rel=1e-4)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(1, 4), st.integers(0, 3))
def test_processes_get_all_rows_and_about_as_many_tokens(lengths: list[int], ranks: int, seed: int) -> None:
    layout, per_step = Layout(100, packed=True), 4 * ranks
    order = epoch_order(lengths, per_step, seed, 0, layout=layout, ranks=ranks)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    for start in range(0, len(order) - per_step + 1, per_step):
        step = np.array(lengths)[order[start : start + per_step]]
        loads = [part.sum() for part in np.split(step, ranks)]
        assert max(loads) - min(loads) <= max(step)


def on_a_rank(folder: Path, work: Path, world: int, poisoned: str) -> dict[str, Any]:
    """A packed training of 11 rows, 4 a step; or what a sample whose teacher rows are NaN makes it say."""
    place = int(os.environ.get("RANK", "0"))
    rows, teacher = told_apart(folder, work.parent / f"{work.name}-{world}-{place}.safetensors")
    rows = rows[:11]
    if poisoned:
        teacher.__class__, teacher.key = Poisoned, poisoned  # type: ignore[attr-defined]  # of a Poisoned
    trainer = trainer_of(
        work, folder, rows, teacher, match=matching(), micro=4 // world, optim="sgd", learning_rate=0.1,
        layout=Layout(90, packed=True),
    )  # fmt: skip
    passes: list[int] = []
    inner = trainer.training_step
    trainer.training_step = lambda model, inputs, n=None: (  # type: ignore[method-assign, misc]  # counts on the way
        passes.append(len(inputs["passes"])),
        inner(model, inputs, n),
    )[1]
    if poisoned:
        with pytest.raises(DistillError) as error:
            trainer.run()
        return {"said": str(error.value)}
    return {"history": trainer.run(), "weights": weights(trainer), "passes": passes}


def test_packed_on_two_processes_is_packed_on_one(tmp_path: Path, tiny_model: Path) -> None:
    """They have different numbers of passes, the last step is short, and gradients are exchanged once a step."""
    one = on_a_rank(tiny_model, tmp_path / "one", 1, "")
    first, second = on_ranks(2, tmp_path / "two", on_a_rank, tiny_model, tmp_path / "w", 2, "")
    assert first["passes"] != second["passes"]
    assert farthest(first["weights"], second["weights"]) == 0
    assert farthest(one["weights"], first["weights"]) < 1e-6
    for mine, theirs in zip(one["history"], first["history"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_processes_name_the_poisoned_sample_whoever_had_it(tmp_path: Path, tiny_model: Path) -> None:
    key = told_apart(tiny_model, tmp_path / "logits.safetensors")[0][5].key
    said = [one["said"] for one in on_ranks(2, tmp_path / "two", on_a_rank, tiny_model, tmp_path / "w", 2, key)]
    assert said[0] == said[1]
    assert f" in {key[:12]}; look at that trace" in said[0]
