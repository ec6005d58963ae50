"""The script that an engineer would write instead: fine-tune a pretrained network with torchvision's transforms.

    python -m bench.plain_finetune --data FOLDER [--seconds 420] [--size 224] [--threads 2] [--seed 0]

The same network and weights as the image `finetune` has (EfficientNet-Lite0), trained whole: random resized crops and
flips, AdamW, a cosine to the end of the time, the epoch that is best on the validation pictures. FOLDER holds
splits.csv. Prints one JSON object; seconds count from the start of Python, imports included.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import copy  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from bench.figures import budget_arguments  # noqa: E402
from bench.neu_baseline import pretrained, read  # noqa: E402
from loupe.tasks.classification import OVERALL, Scorer  # noqa: E402

BATCH, RATE = 32, 5e-4


def answers(network: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """Return the classes that a network says, int64 [N], for uint8 [N, 3, H, W]."""
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(part.float() / 127.5 - 1).argmax(dim=1) for part in torch.split(pictures, 64)])


def train(
    network: nn.Module, pictures: torch.Tensor, classes: torch.Tensor, splits: torch.Tensor, seconds: float
) -> int:
    """Train for so many seconds, keep the best epoch, and return how many epochs there were."""
    size = pictures.shape[-1]
    change = v2.Compose([v2.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip()])
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    rows, held_out = (torch.nonzero(splits == split).flatten() for split in (0, 1))
    best, kept, epochs = -1.0, copy.deepcopy(network.state_dict()), 0
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        network.train()
        for batch in torch.split(rows[torch.randperm(len(rows))], BATCH):
            spent = time.perf_counter() - began
            if spent >= seconds or len(batch) < 2:
                break
            for group in optimizer.param_groups:
                group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * spent / seconds))
            inputs = torch.stack([change(each) for each in pictures[batch]]).float() / 127.5 - 1
            loss = functional.cross_entropy(network(inputs), classes[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            optimizer.step()
        epochs += 1
        right = (answers(network, pictures[held_out]) == classes[held_out]).float().mean().item()
        if right > best:
            best, kept = right, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    return epochs


def main() -> None:
    """Train and print the figures on the test pictures."""
    parser = budget_arguments(__doc__)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(asked.seed)
    pixels, known, parts, outputs = read(asked.data, asked.size)
    pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    classes, splits = torch.from_numpy(known), torch.from_numpy(parts)
    network = nn.Sequential(pretrained(), nn.Linear(1280, outputs)).to(memory_format=torch.channels_last)
    epochs = train(network, pictures, classes, splits, asked.seconds - (time.perf_counter() - BEGAN))
    said = answers(network, pictures[splits == 2]).numpy()
    truth = known[parts == 2]
    figures = {metric: Scorer(metric).of_answers(truth, said, outputs) for metric in OVERALL}
    print(json.dumps({**figures, "epochs": epochs, "seconds": round(time.perf_counter() - BEGAN, 1)}))


if __name__ == "__main__":
    main()
