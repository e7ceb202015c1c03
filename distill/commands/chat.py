"""`distill chat`."""

from __future__ import annotations

import click


@click.command()
@click.argument("target")
@click.option("--temperature", type=float, default=0.6, show_default=True, help="0 is greedy.")
@click.option("--max-tokens", type=int, help="Longest answer; the model's context unless given.")
def command(target: str, temperature: float, max_tokens: int | None) -> None:
    from distill.chat import chat as talk

    talk(target, temperature=temperature, max_tokens=max_tokens)
