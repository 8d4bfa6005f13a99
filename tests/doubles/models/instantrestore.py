"""Writes random weights in InstantRestore's released layout, and computes the published operations with them.

The layout and the order of operations come from the authors' code (snap-research/InstantRestore). No function of this
file uses our code of InstantRestore.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from tests.doubles.models.stable_diffusion import PROMPT, write_mini_sd

FINAL = "final_model_ckpt.pt"
RANK = 6
SIZE = 64  # The side of the images in pixels.
# This UNet has two levels, and sd-turbo has four. Two levels make the tests fast.
UNET = {
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": (2, 4),
}
WORDS = ["a", "high", "-", "quality", "photo", "of", "a", "person", ";", "professional", ",", "8", "k"]
LETTERS = sorted({letter for word in WORDS for letter in word})
MODEL = {
    "net_type": "pix2pix_turbo",
    "lora_rank_unet": RANK,
    "lora_rank_vae": RANK,
    "condition_on_face_embeds": False,
    "use_shared_attention": True,
    "train_vae": True,
    "use_shortcuts": False,
    "train_reference_networks": False,
    "use_adain": True,
    "train_input": False,
}
# The authors' code adapts the layers with these names.
UNET_LAYERS = "to_k to_q to_v to_out.0 conv conv1 conv2 conv_shortcut conv_out proj_in proj_out ff.net.2 ff.net.0.proj"
VAE_LAYERS = "conv1 conv2 conv_in conv_shortcut conv conv_out to_k to_q to_v to_out.0"

State = dict[str, torch.Tensor]


def write_text_parts(folder: Path) -> None:
    """Writes a small text encoder, and a tokenizer that divides words into letters, in the layout of sd-turbo."""
    vocabulary = ["!", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **names}
    for file, text in (
        ("vocab.json", json.dumps({token: number for number, token in enumerate(vocabulary)})),
        ("merges.txt", "#version: 0.2\n"),
        ("tokenizer_config.json", json.dumps(tokenizer)),
        # sd-turbo fills the rest of the prompt with "!"
        ("special_tokens_map.json", json.dumps({"pad_token": "!", **names})),
    ):
        (folder / "tokenizer" / file).write_text(text)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=PROMPT,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="gelu",
        bos_token_id=len(vocabulary) - 2,
        eos_token_id=len(vocabulary) - 1,
        pad_token_id=0,
    )
    config.save_pretrained(folder / "text_encoder")


def prompt_ids() -> torch.Tensor:
    """Returns the token ids (1, 77) of the published prompt, which this function divides into letters by itself."""
    ids = [2 * len(LETTERS) + 1]
    for word in WORDS:
        ids += [1 + LETTERS.index(letter) for letter in word[:-1]]
        ids.append(1 + len(LETTERS) + LETTERS.index(word[-1]))
    ids.append(2 * len(LETTERS) + 2)
    return torch.tensor([ids + [0] * (77 - len(ids))])


def write_base(folder: Path, schedule: dict[str, Any] | None = None) -> Path:
    """Writes a small model in the layout of sd-turbo. `schedule` replaces entries of the scheduler's configuration."""
    write_mini_sd(folder, UNET, schedule=schedule)
    write_text_parts(folder)
    return folder


def networks(base: Path) -> dict[str, Any]:
    """Returns the parts of the authors' model. The parts have no adapters."""
    return {
        "unet": UNet2DConditionModel.from_pretrained(base / "unet"),
        "vae": AutoencoderKL.from_pretrained(base / "vae"),
        "original_unet": UNet2DConditionModel.from_pretrained(base / "unet"),
        "original_vae": AutoencoderKL.from_pretrained(base / "vae"),
        "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(base / "text_encoder")),
    }


def released_state(base: Path) -> State:
    """Returns random tensors with the names of the authors' checkpoint."""
    state: State = {}
    for part, network in networks(base).items():
        adapter = {"unet": "default", "vae": "vae_skip"}.get(part)
        adapted = {"unet": UNET_LAYERS, "vae": VAE_LAYERS}.get(part, "").split()
        for name, tensor in network.state_dict().items():
            layer, _, kind = name.rpartition(".")
            # The released file has the level `text_model`, which transformers has dropped since the release.
            prefix = "net.text_encoder.text_model" if part == "text_encoder" else f"net.{part}"
            value = tensor + 0.02 * torch.randn_like(tensor)
            if not any(layer == one or layer.endswith(f".{one}") for one in adapted):
                state[f"{prefix}.{name}"] = value
                continue
            state[f"{prefix}.{layer}.base_layer.{kind}"] = value
            if kind == "weight":
                out, *rest = tensor.shape
                point = (1, 1) * (tensor.ndim == 4)
                state[f"{prefix}.{layer}.lora_A.{adapter}.weight"] = 0.1 * torch.randn(RANK, *rest)
                state[f"{prefix}.{layer}.lora_B.{adapter}.weight"] = 0.1 * torch.randn(out, RANK, *point)
    return state


def write(folder: Path, state: State, **settings: Any) -> Path:
    """Writes a checkpoint as the trainer of the authors does: tensors, settings, and the state of the optimizer."""
    folder.mkdir(exist_ok=True)
    optimizer = {"state": {0: {"step": torch.tensor(5.0)}}, "param_groups": [{"lr": 5e-4, "params": [0]}]}
    cfg = {"model": MODEL | settings, "optim": {"scheduler_type": "constant", "learning_rate": 5e-4}}
    torch.save({"state_dict": state, "cfg": cfg, "optimizer": optimizer}, folder / FINAL)
    return folder


# The functions below compute the published operations from the tensors, without our code.


def merged(state: State, part: str) -> State:
    """Returns the weights of a part, plus .5 * up @ down for each adapter, because alpha is half of the rank."""
    inside = {n.removeprefix(f"net.{part}."): t for n, t in state.items() if n.startswith(f"net.{part}.")}
    weights = {name.replace(".base_layer", ""): tensor for name, tensor in inside.items() if "lora_" not in name}
    for name, down in inside.items():
        if ".lora_A." in name:
            up, weight = inside[name.replace("lora_A", "lora_B")], f"{name.split('.lora_A')[0]}.weight"
            added = torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1))
            weights[weight] = weights[weight] + 0.5 * added.reshape(weights[weight].shape)
    return {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}


class SharedAttention:
    """Computes the attention of the authors in one layer. `seen` contains the keys and values of the references."""

    def __init__(self, adain: bool, own: bool) -> None:
        self.adain, self.own = adain, own
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        keys, values = [attn.to_k(hidden_states)], [attn.to_v(hidden_states)]
        query, self.kept = attn.to_q(hidden_states), (keys[0], values[0])
        for key, value in self.seen:
            if self.adain:
                normal = (value - value.mean(1, keepdim=True)) / (value.std(1, keepdim=True) + 1e-5)
                value = normal * (values[0].std(1, keepdim=True) + 1e-5) + values[0].mean(1, keepdim=True)
            keys.append(key)
            values.append(value)
        if self.seen and not self.own:
            del keys[0], values[0]
        key, value = torch.cat(keys, 1), torch.cat(values, 1)
        heads = []
        for q, k, v in zip(*(t.chunk(attn.heads, -1) for t in (query, key, value)), strict=True):
            heads.append(torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1) @ v)
        return attn.to_out[0](torch.cat(heads, -1))


def low_pass(x: torch.Tensor, scale: float) -> torch.Tensor:
    """Multiplies the lowest frequencies (-1 and 0 in each direction) by `scale`, as FreeU does in diffusers."""
    mask = torch.ones(x.shape[-2:])
    for row in (-1, 0):
        for column in (-1, 0):
            mask[row, column] = scale
    return torch.fft.ifft2(torch.fft.fft2(x) * mask).real


def run_unet(unet: Any, z: torch.Tensor, timestep: int, prompt: torch.Tensor) -> torch.Tensor:
    """Runs a UNet block by block, with the factors of FreeU (s1 .9, s2 .2, b1 1.4, b2 1.6)."""
    emb = unet.time_embedding(unet.time_proj(torch.full((len(z),), timestep)))
    prompt = prompt.expand(len(z), -1, -1)
    h = unet.conv_in(z)
    skips = [h]
    for block in unet.down_blocks:
        more = {"encoder_hidden_states": prompt} if hasattr(block, "attentions") else {}
        h, new = block(hidden_states=h, temb=emb, **more)
        skips += new
    h = unet.mid_block(h, emb, encoder_hidden_states=prompt)
    for level, block in enumerate(unet.up_blocks):
        for layer, resnet in enumerate(block.resnets):
            skip = skips.pop()
            if level < 2:
                half = h.shape[1] // 2
                h = torch.cat([h[:, :half] * (1.4, 1.6)[level], h[:, half:]], 1)
                skip = low_pass(skip, (0.9, 0.2)[level])
            h = resnet(torch.cat([h, skip], 1), emb)
            if hasattr(block, "attentions"):
                h = block.attentions[layer](h, encoder_hidden_states=prompt).sample
        if block.upsamplers is not None:
            h = block.upsamplers[0](h)
    return unet.conv_out(F.silu(unet.conv_norm_out(h)))


def published(
    state: State, base: Path, lq: torch.Tensor, references: torch.Tensor, seed: int, adain: bool, own: bool
) -> torch.Tensor:
    """Returns the restored image of lq (1, 3, S, S) in 0..1. `references` is (K, 3, S, S) in 0..1."""
    parts = networks(base)
    for name, network in parts.items():
        network.load_state_dict(merged(state, name))
        network.eval()
    prompt = parts["text_encoder"](prompt_ids())[0]
    scheduler = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    share = scheduler.alphas_cumprod
    generator, latent = torch.Generator().manual_seed(seed), (1, 4, SIZE // 8, SIZE // 8)
    draws = [torch.randn(latent, generator=generator) for _ in range(4)]

    def encode(vae: Any, images: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        posterior = vae.encode(images * 2 - 1).latent_dist
        return (posterior.mean + posterior.std * draw) * 0.18215

    def noisy(z: torch.Tensor, draw: torch.Tensor, timestep: int) -> torch.Tensor:
        return share[timestep] ** 0.5 * z + (1 - share[timestep]) ** 0.5 * draw

    # The random numbers are drawn in this order: for the posterior of the input, for the posterior of the references,
    # for the noise of the references, and for the noise of the input.
    z = encode(parts["vae"], lq, draws[0])
    layers = [name for name, _ in parts["unet"].up_blocks.named_modules() if name.endswith("attn1")]
    shared = [SharedAttention(adain, own) for _ in layers]
    for name, attention in zip(layers, shared, strict=True):
        parts["original_unet"].up_blocks.get_submodule(name).set_processor(attention)
        parts["unet"].up_blocks.get_submodule(name).set_processor(attention)
    seen: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in layers]
    for reference in references:
        shown = noisy(encode(parts["original_vae"], reference[None], draws[1]), draws[2], 1)
        run_unet(parts["original_unet"], shown, 1, prompt)
        for kept, attention in zip(seen, shared, strict=True):
            assert attention.kept is not None
            kept.append(attention.kept)
    for kept, attention in zip(seen, shared, strict=True):
        attention.seen = kept
    z = noisy(z, draws[3], 249)
    noise = run_unet(parts["unet"], z, 249, prompt)
    clean = scheduler.step(noise, 249, z).pred_original_sample  # this image is clipped if the scheduler clips
    return parts["vae"].decode(clean / 0.18215).sample.clamp(-1, 1) / 2 + 0.5
