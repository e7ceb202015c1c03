"""`distill export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from distill.commands import shared


@click.command()
@click.argument("what", metavar="EXPERIMENT.yaml|MODEL", type=str)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="With an experiment: change one setting.")
@click.option("--workspace", default="runs", show_default=True, envvar="DISTILL_WORKSPACE", help="Folder of all runs.")
@click.option("--format", "format_name", help="With a model: safetensors or gguf.")
@click.option("--type", "tensor_type", help="With a model: q8_0, q6_k, q4_k_m ... for gguf; bf16, nf4 ... else.")
@click.option("--imatrix", metavar="FILE", help="With a model: importance matrix of llama-imatrix, .gguf or .dat.")
@click.option("--out", type=click.Path(path_type=Path), help="With a model: folder to write into.")
@click.option("--adapter", help="With a model: a LoRA adapter to merge on the way.")
@click.option("--adapter-alone", is_flag=True, help="With safetensors: write the adapter itself, not a merge.")
@click.option(
    "--adapter-base", "onto", type=click.Choice(["trained", "stored"]),
    help="With a QLoRA adapter: lay it over the 4-bit base that it learnt on (trained), or over the base as stored.",
)  # fmt: skip
@click.option(
    "--tier-3/--no-tier-3", "tier_3", default=None,
    help="With a model: compare the file's distributions with the model's; on by itself up to 300 M weights.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    what: str,
    overrides: tuple[str, ...],
    workspace: str,
    format_name: str | None,
    tensor_type: str | None,
    out: Path | None,
    adapter: str | None,
    adapter_alone: bool,
    imatrix: str | None,
    onto: Literal["trained", "stored"] | None,
    tier_3: bool | None,
    as_json: bool,
) -> None:
    if what.endswith((".yaml", ".yml")):
        for option, given in {
            "--format": format_name,
            "--type": tensor_type,
            "--imatrix": imatrix,
            "--out": out,
            "--adapter": adapter,
            "--adapter-alone": adapter_alone or None,
            "--adapter-base": onto,
            "--tier-3": tier_3,
        }.items():
            if given is not None:
                raise click.UsageError(f"{option} goes with a model folder; an experiment says it in its `export:`")
        shared.run_stage("export", Path(what), overrides, workspace, as_json)
        return
    if format_name is None or out is None:
        raise click.UsageError("a model folder needs --format and --out")
    if overrides:
        raise click.UsageError("--set goes with an experiment")
    from distill.export import stage

    named = "dtype" if format_name == "safetensors" else "type"
    settings = {named: tensor_type, "imatrix": imatrix, "adapter": "alone" if adapter_alone else None}
    choice = stage.format_choice(format_name, **settings)
    report = stage.export_folder(what, out, [choice], adapter=adapter, onto=onto or "trained", tier_3=tier_3)
    shared.print_report(report.rows, report.summary, report.data, as_json)
    if report.missed:
        from distill.core.errors import ThresholdMissed

        raise ThresholdMissed(report.missed)
