"""What we rely on of other packages' private parts is still there; each failure names the file to look at."""

import inspect
from pathlib import Path

import cpuinfo
import pytest
import torch
import transformers
from deepspeed.ops.op_builder.builder import OpBuilder
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero import partition_parameters
from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import DeepSpeedStrategy
from transformers import DynamicCache

from avrt.models import onednn
from avrt.models import transformers_internals as ours
from avrt.models.qwen2_5_omni.positions import audio_token_count
from avrt.models.qwen3_omni.nano import nano_thinker
from avrt.training import deepspeed_internals, lightning_internals

ROOT = Path(__file__).parents[1]
PRIVATE = {
    "avrt/models/transformers_internals.py": (
        "._attn_implementation", "_get_feat_extract_output_lengths", "early_initialization", "full_attention",
        "_dynamo", "apply_rotary", "should_save_on_this_rank",
        "_deepstack_process", "get_audio_cu_seqlens", "interp_indices", "tower.conv_chunksize",
    ),
    "avrt/training/lightning_internals.py": (
        "_save_none_monitor_checkpoint", "_monitor_candidates", "_every_n_train_steps", "_init_deepspeed_distributed",
        "_find_last_checkpoints", "._parser(",
        "batch_progress", "combined_loader", "reset_seed", "_get_process_group_backend",
    ),
    "avrt/training/deepspeed_internals.py": (
        "clear_backward_seen_flag", "set_gradient_accumulation_boundary", "load_universal_checkpoint", "zero_pp_rank",
        "zero_to_fp32", "ds_to_universal", "use_node_local_storage", "dp_world_size",
        "_register_deepspeed_module", "parameter_offload", "ds_active_sub_modules",
        "partition_all_parameters", "INFLIGHT",
    ),
}  # fmt: skip


@pytest.mark.parametrize("home", PRIVATE)
def test_private_parts_are_touched_in_one_file_only(home):
    for path in sorted((ROOT / "avrt").rglob("*.py")):
        if path != ROOT / home:
            found = [name for name in PRIVATE[home] if name in path.read_text()]
            assert not found, f"{path.relative_to(ROOT)} uses {found}: put it into {home}"


def test_each_file_names_the_versions_it_was_written_against():
    for module, package in (
        (ours, "transformers"), (lightning_internals, "Lightning"), (deepspeed_internals, "DeepSpeed"),
    ):  # fmt: skip
        assert f"private parts of {package}. Written against " in module.__doc__


def test_transformers_hands_a_layout_to_every_layer(nano):
    """An argument that no decoder knows reaches the registered attention function untouched, and no mask is made."""
    seen = []

    def attention(module, query, key, value, attention_mask, **settings):
        seen.append((attention_mask, settings["layout"]))
        return query.transpose(1, 2), None

    ours.register_attention("avrt_probe", attention)
    config = nano.decoder.language_model.config
    before = ours.attention_name(config)
    ours.use_attention(config, "avrt_probe")
    try:
        layout, hidden = object(), config.hidden_size
        nano.decoder.language_model(
            inputs_embeds=torch.zeros(1, 3, hidden),
            position_ids=torch.zeros(3, 1, 3, dtype=torch.long),
            use_cache=False,
            **ours.with_layout(layout),
        )
    finally:
        ours.use_attention(config, before)
    assert len(seen) == config.num_hidden_layers, f"transformers {transformers.__version__}: {ours.__file__}"
    assert all(mask.numel() == 0 and given is layout for mask, given in seen)


def test_transformers_asks_the_model_which_process_saves_it(nano, tmp_path, monkeypatch):
    monkeypatch.setattr(type(nano.model), "should_save_on_this_rank", lambda self, is_main_process: False)
    nano.model.save_pretrained(tmp_path / "theirs")
    ours.save_here(nano.model, tmp_path / "ours", nano.model.state_dict())
    assert not (tmp_path / "theirs" / "model.safetensors").exists(), ours.__file__
    assert (tmp_path / "ours" / "model.safetensors").exists(), ours.__file__


def test_caches_keep_their_tensors_where_we_look():
    cache = DynamicCache()
    keys, values = torch.randn(2, 1, 3, 4), torch.randn(2, 1, 3, 4)
    cache.update(keys, values, 0)
    found_keys, found_values = ours.cache_tensors(cache)
    assert torch.equal(found_keys[0], keys), ours.__file__
    assert torch.equal(found_values[0], values), ours.__file__


def test_attention_layers_call_the_rotary_embedding_where_we_look(nano):
    layer = nano.decoder.language_model.layers[0].self_attn
    given = torch.randn(1, 4, 3, 32), torch.randn(1, 2, 3, 32), torch.randn(1, 3, 32), torch.randn(1, 3, 32)
    seen = []

    def rotation(query, key, cos, sin):
        seen.append((query.shape, key.shape, cos.shape, sin.shape))
        return query, key

    forward = ours.with_rotation(type(layer).forward, rotation)
    forward(layer, torch.randn(1, 3, layer.hidden_size), position_embeddings=given[2:])
    assert seen == [tuple(tensor.shape for tensor in given)], ours.__file__
    query, _ = ours.rotation_of(type(layer).forward)(*given)
    assert query.shape == given[0].shape
    with pytest.raises(RuntimeError, match="do not fit this release"):
        ours.rotation_of(type(layer.q_proj).forward)


def test_qwen3_omni_adds_features_by_the_method_that_we_give_it():
    """Once behind each of the first layers; a mask of tokens and their indices come to the same."""
    model, _ = nano_thinker()
    decoder, found = model.model.language_model, []
    features = [torch.randn(3, 128) for _ in range(2)]
    mask = torch.tensor([[False, True, False, True, True]])
    embeddings, positions = torch.randn(1, 5, 128), torch.arange(5).expand(3, 1, 5)
    for places in (mask, mask.flatten().nonzero()[:, 0]):
        with torch.no_grad():
            output = decoder(
                inputs_embeds=embeddings, position_ids=positions, visual_pos_masks=places,
                deepstack_visual_embeds=features,
            )  # fmt: skip
        found.append(output.last_hidden_state)
        ours.add_features_at_places(decoder)
    assert torch.allclose(*found, atol=1e-6), ours.__file__
    calls = []
    decoder._deepstack_process = lambda hidden, places, added: calls.append(added) or hidden
    decoder(
        inputs_embeds=embeddings, position_ids=positions, visual_pos_masks=mask, deepstack_visual_embeds=features
    )  # fmt: skip
    assert [id(call) for call in calls] == [id(added) for added in features], ours.__file__


def test_the_audio_tower_still_tells_how_many_tokens_it_makes(nano):
    _, tower = nano.family.towers(nano.model)
    for frames in (8, 100, 130, 1000):
        _, tokens = tower._get_feat_extract_output_lengths(torch.tensor([frames]))
        assert len(ours.sound_layout((frames,), tower.config.n_window)["pool_indices"]) == int(tokens), ours.__file__
        assert audio_token_count(frames) == int(tokens)


def test_lightning_still_has_what_checkpoints_need():
    for name in ("_save_none_monitor_checkpoint", "_monitor_candidates", "_find_last_checkpoints"):
        assert callable(getattr(ModelCheckpoint, name, None)), f"{name}: {lightning_internals.__file__}"
    assert lightning_internals.OpenModelCheckpoint(every_n_train_steps=7).interval == 7
    assert callable(getattr(LightningCLI, "_parser", None)), lightning_internals.__file__
    for name in ("_init_deepspeed_distributed", "_get_process_group_backend"):
        assert callable(getattr(DeepSpeedStrategy, name, None)), f"{name}: {lightning_internals.__file__}"
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
    assert lightning_internals.progress(trainer) == (0, 0), lightning_internals.__file__
    state = trainer.fit_loop.state_dict()
    for name in ("state_dict", "epoch_progress", "epoch_loop.batch_progress", "epoch_loop.state_dict"):
        assert name in state, f"{name}: {lightning_internals.__file__}"
    assert {"total", "current", "is_last_batch"} <= set(state["epoch_loop.batch_progress"])


def test_deepspeed_still_asks_py_cpuinfo_by_the_name_that_remembers():
    deepspeed_internals.ask_processor_once()
    assert inspect.getsource(OpBuilder).count("from cpuinfo import get_cpu_info") == 2
    assert cpuinfo.get_cpu_info() is cpuinfo.get_cpu_info()


def test_pytorch_still_has_the_product_of_onednn():
    one, other = torch.randn(40, 16), torch.randn(24, 16)
    assert torch.allclose(onednn.product(one, other), one @ other.T, atol=1e-5)
    assert torch.allclose(onednn.product(one.T, one.T), one.T @ one, atol=1e-4)


def test_deepspeed_still_has_what_a_step_needs():
    for kind in (DeepSpeedZeroOptimizer, DeepSpeedZeroOptimizer_Stage3):
        assert callable(getattr(kind, "clear_backward_seen_flag", None)), deepspeed_internals.__file__
    assert callable(getattr(DeepSpeedEngine, "set_gradient_accumulation_boundary", None)), deepspeed_internals.__file__
    assert callable(getattr(DeepSpeedZeRoOffload, "_register_deepspeed_module", None)), deepspeed_internals.__file__
    assert callable(getattr(DeepSpeedZeRoOffload, "partition_all_parameters", None)), deepspeed_internals.__file__
    assert partition_parameters.ZeroParamStatus.INFLIGHT, deepspeed_internals.__file__
    for name in ("forward_hooks", "backward_hooks"):
        assert f"self.{name} = []" in inspect.getsource(DeepSpeedZeRoOffload), deepspeed_internals.__file__
    assert "self.parameter_offload" in inspect.getsource(DeepSpeedZeroOptimizer_Stage3), deepspeed_internals.__file__
    assert "ds_active_sub_modules" in inspect.getsource(partition_parameters), deepspeed_internals.__file__
    for name in ("load_universal_checkpoint", "use_node_local_storage", "dp_world_size", "save_latest"):
        assert name in inspect.getsource(DeepSpeedEngine), f"{name}: {deepspeed_internals.__file__}"
