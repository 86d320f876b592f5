# pyright: reportMissingImports=false
"""PyTorch modules for `symmetry_table`: torch.nn, timm, transformers and diffusers.

Weights are random.

Each entry gives the module, example inputs, and the symmetry group on paper: degree of a
symmetric group -> how many independent copies act (None: not derived by hand).
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Paper = dict[int, int]


class TorchNetwork(NamedTuple):
    """A PyTorch module to be exported."""

    family: str
    library: str
    make: Callable[[], tuple[Any, tuple[Any, ...]]]
    paper: Paper | None


def _images(name: str, size: int = 64, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import timm
        import torch

        options.setdefault("num_classes", 5)
        return timm.create_model(name, **options), (torch.randn(2, 3, size, size),)

    return make


def _tokens(kind: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import torch
        import transformers

        family = kind.split("For")[0].split("LM")[0]
        config = getattr(transformers, f"{family}Config")(**options)
        model = getattr(transformers, kind)(config)

        class Logits(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, x: Any) -> Any:
                return self.model(x).logits

        x = torch.randint(0, 50, (2, 6))
        return Logits(), (torch.randn(2, 3, 16, 16) if "ViT" in kind else x,)

    return make


def _diffusion(kind: str, *inputs: Any, **options: Any) -> Callable[[], Any]:
    """A model of diffusers; inputs are shapes of images, or integers."""

    def make() -> Any:
        import diffusers
        import torch

        model = getattr(diffusers, kind)(**options)

        class Sample(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, x: Any, *more: Any) -> Any:
                if kind == "AutoencoderKL":
                    posterior = self.model.encode(x).latent_dist
                    decoded = self.model.decode(posterior.mode()).sample
                    return decoded, posterior.logvar
                return self.model(x, *more).sample

        def example(x: Any) -> Any:
            return torch.randn(x) if isinstance(x, tuple) else torch.tensor([x, x + 1])

        return Sample(), tuple(example(x) for x in inputs)

    return make


def _recurrent(kind: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import torch

        class Last(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cells = getattr(torch.nn, kind)(4, 6, batch_first=True, **options)
                width = 12 if options.get("bidirectional") else 6
                self.head = torch.nn.Linear(width, 2)

            def forward(self, x: Any) -> Any:
                return self.head(self.cells(x)[0][:, -1])

        return Last(), (torch.randn(2, 5, 4),)

    return make


def _plain(build: Callable[[Any], Any], *shape: int) -> Callable[[], Any]:
    def make() -> Any:
        import torch

        return build(torch.nn), (torch.randn(*shape),)

    return make


def _mlp(nn: Any) -> Any:
    layers = nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 7), nn.GELU(), nn.Linear(7, 2)
    return nn.Sequential(*layers)


def _encoder(nn: Any) -> Any:
    layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(4, 12), encoder, nn.Linear(12, 2))


def _decoder(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.InstanceNorm2d(8, affine=True),
        nn.SiLU(),
        nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2),
        nn.GroupNorm(2, 6),
        nn.LeakyReLU(),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(6, 2, 1),
    )


def _blocks(layers: int, heads: int, width: int, hidden: int, stream: int) -> Paper:
    """A transformer: heads, channels within each (twice), hidden units, the stream."""
    groups = Counter({heads: layers, width: 2 * heads * layers})
    groups.update({hidden: layers})
    groups.update({stream: 1})
    return dict(groups)


SMALL = {
    "vocab_size": 50,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
ROTARY = SMALL | {
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 20,
    "use_cache": False,
}
# Query heads of a key head; channels of queries and keys are held by the rotation, but
# in pairs follow the two frequencies, which are stored in the file.
GROUPED = {2: 2 + 4 + 1, 4: 4, 16: 1, 20: 2}
VIT = {"img_size": 32, "patch_size": 8}
PARTIAL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "use_cache": False,
}

NETWORKS: dict[str, TorchNetwork] = {
    "MLP": TorchNetwork("MLP", "torch.nn", _plain(_mlp, 4, 3), {8: 1, 7: 1}),
    "RNN": TorchNetwork("recurrent", "torch.nn", _recurrent("RNN"), {6: 1}),
    "LSTM, 2 layers, bidirectional": TorchNetwork(
        "recurrent",
        "torch.nn",
        _recurrent("LSTM", num_layers=2, bidirectional=True),
        {6: 4},
    ),
    "GRU, 2 layers, bidirectional": TorchNetwork(
        "recurrent",
        "torch.nn",
        _recurrent("GRU", num_layers=2, bidirectional=True),
        {6: 4},
    ),
    "TransformerEncoder": TorchNetwork(
        "transformer", "torch.nn", _plain(_encoder, 2, 5, 4), _blocks(2, 3, 4, 16, 12)
    ),
    "norms and transposed convolution": TorchNetwork(
        "CNN", "torch.nn", _plain(_decoder, 2, 3, 16, 16), {2: 1, 3: 2, 4: 2}
    ),
    "resnet18": TorchNetwork(
        "residual CNN", "timm", _images("resnet18"), {64: 3, 128: 3, 256: 3, 512: 3}
    ),
    "resnet50": TorchNetwork(
        "residual CNN",
        "timm",
        _images("resnet50"),
        {64: 7, 128: 8, 256: 13, 512: 7, 1024: 1, 2048: 1},
    ),
    "vgg11": TorchNetwork(
        "CNN", "timm", _images("vgg11", 32), {64: 1, 128: 1, 256: 2, 512: 4, 4096: 2}
    ),
    "densenet121": TorchNetwork(
        "DenseNet",
        "timm",
        _images("densenet121"),
        {64: 1, 32: 58, 128: 59, 256: 1, 512: 1},
    ),
    "mobilenetv2_050": TorchNetwork(
        "depthwise CNN",
        "timm",
        _images("mobilenetv2_050"),
        {8: 1, 16: 3, 32: 1, 48: 2, 80: 1, 96: 5, 160: 1, 192: 4, 288: 3, 480: 3}
        | {1280: 1},
    ),
    "mobilenetv3_small_050": TorchNetwork(
        "depthwise CNN, squeeze and excite",
        "timm",
        _images("mobilenetv3_small_050"),
        None,
    ),
    "efficientnet_b0": TorchNetwork(
        "depthwise CNN, squeeze and excite",
        "timm",
        _images("efficientnet_b0"),
        {4: 1, 6: 2, 8: 1, 10: 2, 16: 1, 20: 3, 24: 1, 28: 3, 32: 1, 40: 1, 48: 4}
        | {80: 1, 96: 1, 112: 1, 144: 2, 192: 1, 240: 2, 320: 1, 480: 3, 672: 3}
        | {1152: 4, 1280: 1},
    ),
    "regnetx_002": TorchNetwork(
        "grouped CNN",
        "timm",
        _images("regnetx_002"),
        {3: 1, 7: 1, 19: 4, 46: 7, 8: 2 * (3 + 7 + 4 * 19 + 7 * 46)}
        | {24: 1, 32: 1, 56: 1, 152: 1, 368: 1},
    ),
    "convnext_atto": TorchNetwork(
        "CNN, layer norm",
        "timm",
        _images("convnext_atto"),
        {40: 1, 80: 1, 160: 3, 320: 3, 640: 6, 1280: 2},
    ),
    "vit_tiny_patch16_224": TorchNetwork(
        "ViT",
        "timm",
        _images("vit_tiny_patch16_224", 32, **VIT),
        _blocks(12, 3, 64, 768, 192),
    ),
    "swin_tiny_patch4_window7_224": TorchNetwork(
        "windowed transformer",
        "timm",
        _images("swin_tiny_patch4_window7_224", 224),
        {3: 2, 6: 2, 12: 6, 24: 2, 32: 2 * (3 * 2 + 6 * 2 + 12 * 6 + 24 * 2)}
        | {96: 1, 192: 1, 384: 3, 768: 3, 1536: 6, 3072: 2},
    ),
    "mixer_s32_224": TorchNetwork(
        "MLP-Mixer", "timm", _images("mixer_s32_224", 224), {256: 8, 512: 1, 2048: 8}
    ),
    "resmlp_12_224": TorchNetwork(
        "MLP-Mixer", "timm", _images("resmlp_12_224", 224), {384: 1, 1536: 12}
    ),
    "poolformer_s12": TorchNetwork(
        "pooling transformer",
        "timm",
        _images("poolformer_s12"),
        {64: 1, 128: 1, 256: 2, 320: 1, 512: 3, 1280: 6, 2048: 2},
    ),
    "repvgg_a0": TorchNetwork(
        "CNN of parallel branches",
        "timm",
        _images("repvgg_a0"),
        {48: 2, 96: 1, 192: 1, 1280: 1},
    ),
    # Grouped convolutions: 32 groups, and their channels before and after.
    "resnext50_32x4d": TorchNetwork(
        "grouped CNN",
        "timm",
        _images("resnext50_32x4d"),
        {4: 64 * 3, 8: 64 * 4, 16: 64 * 6, 32: 64 * 3 + 16}
        | {64: 1, 256: 1, 512: 1, 1024: 1, 2048: 1},
    ),
    "deit_tiny_distilled_patch16_224": TorchNetwork(
        "ViT",
        "timm",
        _images("deit_tiny_distilled_patch16_224", 32, **VIT),
        _blocks(12, 3, 64, 768, 192),
    ),
    "gmlp_s16_224": TorchNetwork(
        "gated MLP", "timm", _images("gmlp_s16_224", 224), {256: 1, 768: 30}
    ),
    "Bert": TorchNetwork(
        "transformer",
        "transformers",
        _tokens("BertForSequenceClassification", **SMALL),
        {3: 2, 4: 12, 16: 2, 12: 2},
    ),
    "DistilBert": TorchNetwork(
        "transformer",
        "transformers",
        _tokens(
            "DistilBertForSequenceClassification",
            vocab_size=50,
            dim=12,
            n_layers=2,
            n_heads=3,
            hidden_dim=16,
            max_position_embeddings=16,
        ),
        {3: 2, 4: 12, 16: 2, 12: 2},
    ),
    "Albert, layers shared": TorchNetwork(
        "transformer, weight sharing",
        "transformers",
        _tokens("AlbertForSequenceClassification", embedding_size=7, **SMALL),
        {3: 1, 4: 6, 16: 1, 12: 2, 7: 1},
    ),
    "GPT2, tied embedding": TorchNetwork(
        "decoder",
        "transformers",
        _tokens(
            "GPT2LMHeadModel",
            vocab_size=50,
            n_embd=12,
            n_layer=2,
            n_head=3,
            n_positions=16,
            use_cache=False,
            bos_token_id=1,
            eos_token_id=1,
        ),
        _blocks(2, 3, 4, 48, 12),
    ),
    "OPT": TorchNetwork(
        "decoder",
        "transformers",
        _tokens(
            "OPTForCausalLM",
            vocab_size=50,
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=3,
            ffn_dim=16,
            max_position_embeddings=16,
            word_embed_proj_dim=12,
            use_cache=False,
        ),
        _blocks(2, 3, 4, 16, 12),
    ),
    "Llama, grouped queries": TorchNetwork(
        "rotary decoder", "transformers", _tokens("LlamaForCausalLM", **ROTARY), GROUPED
    ),
    "Qwen2": TorchNetwork(
        "rotary decoder", "transformers", _tokens("Qwen2ForCausalLM", **ROTARY), GROUPED
    ),
    "GPTNeoX, queries fused per head": TorchNetwork(
        "rotary decoder",
        "transformers",
        _tokens(
            "GPTNeoXForCausalLM",
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=20,
            max_position_embeddings=16,
            use_cache=False,
        ),
        {4: 2, 8: 8, 6: 8, 20: 2, 32: 1},
    ),
    "Qwen3, query and key norms": TorchNetwork(
        "rotary decoder",
        "transformers",
        _tokens("Qwen3ForCausalLM", head_dim=4, **ROTARY),
        GROUPED,
    ),
    "Gemma2, capped scores": TorchNetwork(
        "rotary decoder",
        "transformers",
        _tokens("Gemma2ForCausalLM", head_dim=4, **ROTARY),
        GROUPED,
    ),
    # Of eight channels of queries and keys four are rotated, at two stored frequencies.
    "Phi, partial rotation": TorchNetwork(
        "rotary decoder",
        "transformers",
        _tokens("PhiForCausalLM", partial_rotary_factor=0.5, **PARTIAL),
        {2: 2 + 1, 4: 4, 8: 4, 20: 2, 16: 1},
    ),
    "GPT-J, pairs rotated": TorchNetwork(
        "rotary decoder",
        "transformers",
        _tokens(
            "GPTJForCausalLM",
            vocab_size=50,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_inner=20,
            n_positions=16,
            rotary_dim=4,
            use_cache=False,
            bos_token_id=1,
            eos_token_id=1,
        ),
        {2: 2 + 1, 4: 4, 8: 4, 20: 2, 16: 1},
    ),
    # Query heads share a key, whose channels are rotated at two frequencies, and a value.
    "Falcon, one key head": TorchNetwork(
        "rotary decoder",
        "transformers",
        _tokens(
            "FalconForCausalLM",
            vocab_size=50,
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=3,
            multi_query=True,
            new_decoder_architecture=False,
            use_cache=False,
        ),
        {2: 1, 3: 2, 4: 2, 48: 2, 12: 1},
    ),
    # Heads of both layers follow the slopes, which are stored in the file; queries, keys
    # and values lie side by side in each.
    "Bloom, fused per head": TorchNetwork(
        "decoder",
        "transformers",
        _tokens(
            "BloomForCausalLM",
            vocab_size=50,
            hidden_size=12,
            n_layer=2,
            n_head=3,
            use_cache=False,
        ),
        {3: 1, 4: 12, 48: 2, 12: 1},
    ),
    # Stream; inner channels, entries of the state and rank of the step per layer.
    "Mamba": TorchNetwork(
        "state space",
        "transformers",
        _tokens(
            "MambaForCausalLM",
            vocab_size=50,
            hidden_size=12,
            state_size=4,
            num_hidden_layers=2,
            time_step_rank=3,
            use_cache=False,
        ),
        {12: 1, 24: 2, 4: 2, 3: 2},
    ),
    # Of streams whose norm has two groups of four and of inner channels: 2! x 4!^2; of
    # attention: two heads, channels; two streams without norm; both layers of the time.
    "UNet2DModel": TorchNetwork(
        "diffusion",
        "diffusers",
        _diffusion(
            "UNet2DModel",
            (2, 3, 8, 8),
            3,
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(8, 8),
            norm_num_groups=2,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ),
        {2: 5 + 8 + 4, 4: 2 * 5 + 2 * 8 + 4 * 4, 8: 2, 32: 2},
    ),
    # Groups of every norm; the mean and what is made of it; queries and values.
    "AutoencoderKL": TorchNetwork(
        "autoencoder",
        "diffusers",
        _diffusion(
            "AutoencoderKL",
            (2, 3, 8, 8),
            block_out_channels=(8, 12),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=2,
            sample_size=8,
        ),
        {2: 7 + 9, 4: 12 + 2, 6: 8 + 12, 8: 1, 12: 4},
    ),
    # Stream; per block both layers of the time's embedding, heads, hidden units.
    "DiTTransformer2DModel": TorchNetwork(
        "diffusion transformer",
        "diffusers",
        _diffusion(
            "DiTTransformer2DModel",
            (2, 4, 8, 8),
            3,
            1,
            num_attention_heads=2,
            attention_head_dim=4,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
        ),
        {2: 2, 4: 8, 8: 1 + 4, 32: 2},
    ),
    "ViT": TorchNetwork(
        "ViT",
        "transformers",
        _tokens(
            "ViTForImageClassification",
            image_size=16,
            patch_size=4,
            **{
                k: v
                for k, v in SMALL.items()
                if k.split("_")[0] not in ("vocab", "max")
            },
        ),
        _blocks(2, 3, 4, 16, 12),
    ),
}


def missing() -> Iterator[str]:
    """Packages that are needed to export the modules, and are not installed."""
    exporters = ("torch", "onnx", "onnxscript", "onnxruntime")
    for name in (*exporters, "timm", "transformers", "diffusers"):
        if importlib.util.find_spec(name) is None:
            yield name


def export(network: TorchNetwork, path: str) -> None:
    """Writes a module with random weights and statistics as an ONNX file."""
    import torch

    torch.manual_seed(0)
    module, inputs = network.make()
    module = module.eval()
    with torch.no_grad():
        # Equal arrays would be stored once, and equal weights hide mistakes.
        for tensor in module.parameters():
            tensor += 0.02 * torch.randn_like(tensor)
        for tensor in module.buffers():
            if tensor.is_floating_point() and tensor.ndim:
                tensor += 0.1 * torch.rand_like(tensor)  # variances stay positive
    torch.onnx.export(
        module, inputs, path, dynamo=True, verbose=False, external_data=False
    )
