"""Report a sweep on the console: its plan, each job that ends, and the result."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from cnnlab.runs import tensorboard
from cnnlab.runs.sweep import ENDED, Job, Sweep


def describe(sweep: Sweep, searches: bool) -> str:
    """Return the plan of a sweep as text for the console."""
    record = sweep.record
    done = len(sweep.with_status("finished"))
    what = f"Search of {record['total']} trials" if searches else f"Sweep of {_jobs(record['total'])}"
    where = f", {record['at_once']} at a time" if record["at_once"] > 1 else ""
    lines = [f"{what} in {_shown(sweep.folder)} ({record['launcher']} launcher{where})"]
    heads = ["varies:", *[""] * len(record["varies"])]
    lines += [
        f"  {head:<8}{key} = {', '.join(values)}"
        for head, (key, values) in zip(heads, record["varies"].items(), strict=False)
    ]
    lines.append(f"  {'fixed:':<8}{' '.join(record['fixed']) or 'the defaults'}")
    if done:
        half = sum(sweep.has_checkpoint(job) for job in sweep.jobs if job["status"] != "finished")
        left = record["total"] - done - half - len(sweep.with_status("failed")) * searches
        lines.append(f"  {'resumed:':<9}{done} already finished, {half} to continue, {left} to start")
    else:
        lines.append(f"  {'time:':<8}estimated after the first job")
    return "\n".join(lines)


def announce(sweep: Sweep, ended: Sequence[Job]) -> None:
    """Print one line for each job that has ended."""
    before = len(sweep.with_status(*ENDED)) - len(ended)
    for place, job in enumerate(ended, before + 1):
        if job["status"] == "finished":
            best = dict(job.get("best", {}))
            epoch = best.pop("epoch", None)
            score = "".join(f", best {name} {value:.4f} (epoch {epoch})" for name, value in best.items())
            what = f"finished in {_duration(job.get('wall_seconds', 0))}{score}"
        else:
            what = f"failed: {_reason(job)}"
        print(f"[{place}/{sweep.record['total']}] {job['name']}: {what}{_remaining(sweep)}", flush=True)


def conclude(sweep: Sweep, command: Sequence[str]) -> int:
    """Print how the sweep ended and what to type next; return the exit code.

    command: what was typed. The exit code is 0, that of the first failed job, or 1 if some jobs did not run.
    """
    total, failed = sweep.record["total"], sweep.with_status("failed")
    finished = len(sweep.with_status("finished"))
    counts = {"finished": finished, "failed": len(failed), "not finished": max(0, total - finished - len(failed))}
    print(f"\n{_jobs(total)}: {', '.join(f'{count} {what}' for what, count in counts.items() if count)}")
    for job in failed:
        print(f"  failed: {job['name']}: {_reason(job)}\n          see {_shown(sweep.path_of(job))}/train.log")
    folder = shlex.quote(_shown(sweep.folder))
    if finished < total:
        again = [word for word in command if not word.startswith("sweep.")]
        print(f"Run the rest:  {shlex.join(again)} sweep.dir={folder} sweep.resume=true")
    if finished:
        print(f"Compare:       cnnlab compare {folder}")
        link = tensorboard.link(sweep.record["metric"], _colour(sweep))
        print(f"TensorBoard:   {tensorboard.command(Path(_shown(sweep.folder)))}\n               {link}")
    return next((job.get("exit_code", 1) for job in failed), int(finished < total))


def _colour(sweep: Sweep) -> str | None:
    """Return the regular expression that colours runs by the value of the first factor."""
    factor = next((key for key in sweep.record["varies"] if key not in ("seed", "data.fold")), None)
    names = [job["name"] for job in sweep.with_status("finished")]
    return tensorboard.colour_of(names, factor, sweep.record["varies"][factor] if factor else ())


def _remaining(sweep: Sweep) -> str:
    """Return the estimated remaining time as text, assuming the average duration of the finished jobs."""
    left = sweep.record["total"] - len(sweep.with_status(*ENDED))
    seconds = [job["wall_seconds"] for job in sweep.with_status("finished") if "wall_seconds" in job]
    if not left or not seconds or sweep.record["launcher"] == "submitit_slurm":
        return ""
    rounds = -(-left // sweep.record["at_once"])
    return f"; {left} to go, about {_duration(rounds * sum(seconds) / len(seconds))}"


def _reason(job: Job) -> str:
    """Return the first line of a job's error."""
    return next(iter(job.get("error", "").splitlines()), "no message").rstrip(".")


def _duration(seconds: float) -> str:
    """Format seconds as 9 s, 12 min or 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _jobs(count: int) -> str:
    return f"{count} job{'s' * (count != 1)}"


def _shown(folder: Path) -> str:
    """Return a path relative to the working directory if it is inside it."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)
