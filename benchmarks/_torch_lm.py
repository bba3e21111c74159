"""The same language model in PyTorch, as Hugging Face wrote it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel


class Peer:
    """A torch model, asked for the states of every layer."""

    def __init__(self, model: Any, shape: dict[str, int]) -> None:
        self.model, self.shape = model.eval(), shape
        self.final: Any = None
        self.last: Any = None
        # Hugging Face replaces the last layer's states by those after the norm: keep both.
        model.transformer.h[-1].register_forward_hook(self._keep)

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        self.last = output[0] if isinstance(output, tuple) else output

    def forward(self, ids: np.ndarray, attention: str) -> Any:
        """Logits and hidden states."""
        self.model.set_attn_implementation(attention)
        with torch.inference_mode():
            return self.model(torch.tensor(ids), output_hidden_states=True, use_cache=False)

    def generate(self, ids: np.ndarray, budget: int, settings: dict[str, Any]) -> Any:
        """Sampled tokens with the hidden states of each step."""
        self.model.set_attn_implementation("sdpa")
        with torch.inference_mode():
            return self.model.generate(
                torch.tensor(ids),
                attention_mask=torch.ones_like(torch.tensor(ids)),
                max_new_tokens=budget,
                min_new_tokens=budget,
                pad_token_id=0,
                return_dict_in_generate=True,
                output_hidden_states=True,
                **{"do_sample": True, "top_k": 0, **settings},
            )

    def states(self, ids: np.ndarray) -> dict[Any, np.ndarray]:
        """By layer, as dynlm names them."""
        hidden = self.forward(ids, "eager").hidden_states
        found = {number: x.double().numpy() for number, x in enumerate(hidden[:-1])}
        last, final = self.last.double().numpy(), hidden[-1].double().numpy()
        return found | {len(found): last, "final": final}

    def peak(self, what: str, ids: np.ndarray, budget: int = 0) -> int | None:
        """Bytes by which the largest memory of a fresh process grows in a call."""
        command = [sys.executable, __file__, json.dumps(self.shape), what, *map(str, ids.shape)]
        done = subprocess.run([*command, str(budget)], capture_output=True, text=True)
        return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def gpt2(shape: dict[str, int], folder: Path) -> Peer:
    """A random model of this shape, whose weights are also written to `folder`."""
    made = peer(shape)
    made.model.save_pretrained(folder)
    return made


def peer(shape: dict[str, int]) -> Peer:
    """A random model of this shape."""
    torch.manual_seed(0)
    return Peer(GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)), shape)


def measure(shape: str, what: str, rows: str, time: str, budget: str) -> int:
    """What one call takes at most, in this process, beyond what it held before."""
    model = peer(json.loads(shape))
    ids = np.zeros((int(rows), int(time)), np.int64)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, from loading, is forgotten
    before = status("VmRSS")
    if what == "generate":
        model.generate(ids, int(budget), {})
    else:
        model.forward(ids, what)
    return status("VmHWM") - before


def status(name: str) -> int:
    """Bytes, of what Linux says of this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    print(measure(*sys.argv[1:]))
