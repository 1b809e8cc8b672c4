"""Non-maximum suppression."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from yolorep.detections import Detections
from yolorep.ops.decode import Decoded

#: Candidates above the threshold that are looked at, best first. A limit by count, never by time: results must not
#: depend on the machine.
MAX_CANDIDATES = 30_000


def load_nms() -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    """What suppresses: (boxes, scores, groups, IoU) -> indices kept, best first.

    Importing it takes as long as importing torch. Called before the first image, that time is not taken for NMS's.
    """
    from torchvision.ops import batched_nms

    suppress: Callable[[Tensor, Tensor, Tensor, float], Tensor] = batched_nms
    return suppress


def nms(
    decoded: Decoded,
    *,
    confidence: float,
    iou: float | None,
    max_detections: int,
    multi_label: bool = False,
    class_agnostic: bool = False,
    classes: Sequence[int] | None = None,
) -> list[Detections]:
    """Keeps the best boxes of each image.

    Args:
        decoded: candidates of a batch, boxes in pixels of the network input.
        confidence: candidates must score above this.
        iou: of two boxes of one class that overlap more than this, the lower one goes; None keeps both, for candidates
            of which there is one an object.
        max_detections: boxes kept an image.
        multi_label: a box may be kept for several classes (evaluation); otherwise for its best one only.
        class_agnostic: boxes of different classes suppress each other too.
        classes: keep these class indices only.

    Returns:
        One Detections an image, best first, in pixels of the network input.
    """
    results = []
    for boxes, scores in zip(decoded.boxes, decoded.scores, strict=True):
        if multi_label and scores.shape[1] > 1:
            index, label = (scores > confidence).nonzero(as_tuple=True)
            score = scores[index, label]
        else:
            score, label = scores.max(dim=1)
            (index,) = (score > confidence).nonzero(as_tuple=True)
            score, label = score[index], label[index]
        if classes is not None:
            wanted = torch.isin(label, torch.as_tensor(classes, dtype=label.dtype, device=label.device))
            index, label, score = index[wanted], label[wanted], score[wanted]
        if len(score) > MAX_CANDIDATES:
            score, best = score.topk(MAX_CANDIDATES)
            index, label = index[best], label[best]
        candidates = boxes[index].float()
        if iou is None:
            keep = score.argsort(descending=True, stable=True)[:max_detections]
        else:
            groups = torch.zeros_like(label) if class_agnostic else label
            # batched_nms keeps classes apart by offsets that take coordinates to be positive; boxes may leave the
            # image.
            origin = candidates.min() if len(candidates) else 0.0
            keep = load_nms()(candidates - origin, score.float(), groups, iou)[:max_detections]
        results.append(
            Detections(
                xyxy=candidates[keep].cpu().numpy(),
                confidence=score[keep].float().cpu().numpy(),
                class_id=label[keep].cpu().numpy(),
            )
        )
    return results
