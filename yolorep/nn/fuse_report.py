"""What a fuse did: the records of its blocks, what stayed, and the table for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from yolorep.console import plural


@dataclass(frozen=True)
class FoldRecord:
    """One norm or scale that a block folded away: where it was, inside the block, and what took it up."""

    path: str
    into: tuple[str, ...]


@dataclass(frozen=True)
class FuseRecord:
    """What happened to one block: its place, its class, the float64 error, parameters and FLOPs before and after.

    ``folds`` lists the norms and scales that a Foldable took up; a replaced unit has none.
    """

    name: str
    kind: str
    max_error: float
    params: int
    params_fused: int
    flops: int
    flops_fused: int
    folds: tuple[FoldRecord, ...] = ()


@dataclass(frozen=True)
class Kept:
    """A norm or scale that could not be folded, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class FuseReport:
    """The proof of a fuse.

    Attributes:
        records: one a replaced unit or folded block.
        kept: what could not be folded exactly and so was not.
        params, params_fused: parameters of the whole model.
        gflops, gflops_fused: of the whole model at ``image_size``, batch 1; 0 where they are not counted.
        image_size: pixels the FLOPs are counted at; None where they are not.
        model_error: largest error of the fused model's outputs to the unfused model in float64; None if not run.
        unfused_error: the same for the unfused model in its own dtype.
    """

    records: tuple[FuseRecord, ...]
    kept: tuple[Kept, ...]
    params: int
    params_fused: int
    gflops: float
    gflops_fused: float
    image_size: int | None
    model_error: float | None
    unfused_error: float | None

    @property
    def max_error(self) -> float:
        """Largest float64 error of any block."""
        return max((record.max_error for record in self.records), default=0.0)

    @property
    def kinds(self) -> dict[str, int]:
        """Class name to the number of blocks folded."""
        counts: dict[str, int] = {}
        for record in self.records:
            counts[record.kind] = counts.get(record.kind, 0) + 1
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"kinds": self.kinds, "max_error": self.max_error, **asdict(self)}

    def __repr__(self) -> str:
        """One line."""
        kept = f"{len(self.kept) or 'nothing'} kept"
        return (
            f"FuseReport({plural('block', len(self.records))}, {self.params:,} -> {self.params_fused:,} parameters, "
            f"largest error {self.max_error:.1e}, {kept})"
        )

    def __str__(self) -> str:
        """A table for people."""
        lines = [f"{'kind':24}{'blocks':>8}{'parameters':>14}{'fused':>14}{'max error':>12}"]
        for kind, count in self.kinds.items():
            rows = [record for record in self.records if record.kind == kind]
            lines.append(
                f"{kind:24}{count:8d}{sum(r.params for r in rows):14,d}{sum(r.params_fused for r in rows):14,d}"
                f"{max(r.max_error for r in rows):12.1e}"
            )
        lines.append(f"{'whole model':24}{len(self.records):8d}{self.params:14,d}{self.params_fused:14,d}")
        if self.gflops:
            lines.append(f"GFLOPs at {self.image_size} px: {self.gflops:.2f} -> {self.gflops_fused:.2f}")
        if self.model_error is not None and self.unfused_error is not None:
            lines.append(
                f"largest output error to the float64 reference: fused {self.model_error:.1e}, "
                f"unfused {self.unfused_error:.1e}"
            )
        for kept in self.kept:
            lines.append(f"kept {kept.name}: {kept.reason}")
        if not self.kept:
            lines.append("kept: nothing; no BatchNorm and no layer scale is left")
        return "\n".join(lines)
