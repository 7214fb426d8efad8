"""Somebody approves of a version before it becomes the champion, in a form on Prefect's page.

A pipeline with `approval` registers its hypernetwork as one that waits (`flows.registry.approval`);
the event of that starts this flow, which is suspended until somebody answers: it takes no worker
and no slot meanwhile.
"""

from __future__ import annotations

import hashlib
import re

from prefect import flow, get_run_logger
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput, keyset_from_paused_state, read_flow_run_input
from prefect.states import Suspended
from pydantic import Field

from flows.orchestration.crashes import end_with_worker
from flows.registry.approval import approve, proposal, refuse
from flows.registry.promotion import Decision, promote

DAYS = 14
"""How long an answer may take; afterwards the run has failed, and the version stays a
challenger.
"""


class Answer(RunInput):
    """The form."""

    promote: bool = Field(default=False, description="Make it the champion.")
    by: str = Field(description="Who says so.", min_length=1)
    reason: str = Field(default="", description="Kept as a tag of the version.")


@flow(name="promote", log_prints=True, flow_run_name="promote-{model}", persist_result=False)
def ask(model: str = "ghn3", version: str | None = None) -> str:
    """Asks whether a version shall become the champion, if it is better by more than the noise.

    Args:
        model: Registered model.
        version: Its number; by default that of @challenger.

    Returns:
        What became of it.
    """
    end_with_worker()
    found = proposal(model, version)
    number = found.version
    key = pause_key(model, number)
    # There is nothing to approve of: noted as without an approval.
    if not found.promoted and not _answered(key):
        return _said(model, promote(model, number, automatic=True))
    form = Answer.with_initial_data(description=question(model, found))
    answer = suspend_flow_run(wait_for_input=form, timeout=DAYS * 24 * 3600, key=key)
    decide = approve if answer.promote else refuse
    return _said(model, decide(model, number, answer.by, answer.reason))


def _answered(key: str) -> bool:
    """Whether somebody has filled in the form: a run that is resumed begins anew, and the champion
    may have moved meanwhile.
    """
    keyset = keyset_from_paused_state(Suspended(timeout_seconds=1, pause_key=key))
    return read_flow_run_input(keyset["response"]) is not None


def pause_key(model: str, number: str) -> str:
    """Under what the server keeps form and answer, so that an answer is about the version that the
    form showed.

    Prefect takes lower-case letters, digits and dashes only; the hash keeps names apart that are
    the same in these.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    return f"{readable}-{hashlib.sha256(model.encode()).hexdigest()[:8]}-{number}"


def question(model: str, found: Decision) -> str:
    """What the form shows above its fields, in Markdown."""
    lines = [f"## {model} version {found.version} instead of {found.against}?", "", found.reason]
    if (c := found.comparison) is not None:
        measured = f"{c.architectures} networks, {c.images} images"
        lines += [  # a row each: the form is narrow, and cuts off what is not
            "",
            f"| accuracy without training | {measured} |",
            "|---|---:|",
            f"| now | {c.champion:.2%} |",
            f"| then | {c.challenger:.2%} |",
            f"| difference | {100 * c.difference:+.2f} points |",
            f"| noise | {100 * c.noise:.2f} points |",
        ]
    return "\n".join([*lines, "", f"`ghn registry show {found.version} {model}` shows its tags."])


def _said(model: str, decision: Decision) -> str:
    verdict = "is the champion" if decision.champion else "stays a challenger"
    text = f"{model} version {decision.version} {verdict}: {decision.reason}"
    get_run_logger().info(text)
    return text
