from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from primia.config.settings import ModelSettings
from primia.models.flat import FlatSpec
from primia.models.registry import build_model


def model_of(name: str, normalisation: str = "batch", seed: int = 1) -> nn.Module:
    settings = ModelSettings.model_validate({"name": name, "normalisation": normalisation})
    return build_model(settings, classes=3, channels=1, image_size=32, seed=seed)


@pytest.mark.parametrize("name", ["convnet", "resnet18"])
@pytest.mark.parametrize("normalisation", ["batch", "group"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_model_goes_through_vectors_and_back(name: str, normalisation: str, memory_format: torch.memory_format) -> None:
    source = model_of(name, normalisation, seed=1)
    source(torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    target = model_of(name, normalisation, seed=2).to(memory_format=memory_format)
    spec = FlatSpec.of(source)
    spec.load(target, spec.parameters(source), spec.buffers(source))
    for (key, value), (_, wanted) in zip(target.named_parameters(), source.named_parameters(), strict=True):
        assert torch.equal(value, wanted), key
    for (key, value), (_, wanted) in zip(target.named_buffers(), source.named_buffers(), strict=True):
        assert torch.equal(value, wanted) or key.endswith("num_batches_tracked"), key
    assert target.get_parameter("head.weight" if name == "convnet" else "fc.weight").requires_grad


def test_vectors_are_float32_contiguous_and_fresh() -> None:
    model = model_of("convnet").to(memory_format=torch.channels_last)
    spec = FlatSpec.of(model)
    vector = spec.parameters(model)
    assert vector.dtype == np.float32 and vector.flags.c_contiguous and vector.flags.owndata
    assert vector.shape == (spec.parameter_count,) and spec.buffers(model).shape == (spec.buffer_count,)
    vector[:] = 0
    assert spec.parameters(model).any(), "changing the vector does not change the model"


def test_order_is_that_of_the_logical_shape_whatever_the_memory_format() -> None:
    model = model_of("convnet")
    spec = FlatSpec.of(model)
    expected = np.concatenate([parameter.detach().numpy().ravel() for parameter in model.parameters()])
    assert np.array_equal(spec.parameters(model), expected)
    assert np.array_equal(spec.parameters(model.to(memory_format=torch.channels_last)), expected)


def test_loading_copies_read_only_vectors_without_a_warning() -> None:
    model = model_of("convnet")
    spec = FlatSpec.of(model)
    parameters, buffers = np.full(spec.parameter_count, 2, np.float32), np.full(spec.buffer_count, 3, np.float32)
    parameters.flags.writeable = buffers.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spec.load(model, parameters, buffers)
    with torch.no_grad():
        next(model.parameters()).zero_()
    assert (parameters == 2).all(), "the model does not share memory with the vector"
    assert (spec.buffers(model) == 3).all()


def test_loading_makes_no_tensor_a_view_of_the_vector() -> None:
    """Pickling a state dict whose tensors share one storage would ship that storage for each of them."""
    model = model_of("convnet")
    spec = FlatSpec.of(model)
    spec.load(model, spec.parameters(model), spec.buffers(model))
    for tensor in model.state_dict().values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_a_vector_of_another_length_is_refused() -> None:
    model = model_of("convnet")
    spec = FlatSpec.of(model)
    with pytest.raises(RuntimeError):
        spec.load(model, spec.parameters(model)[:-1], spec.buffers(model))


def test_masks_pair_means_with_variances_and_find_batchnorm_parameters() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    spec = FlatSpec.of(model)
    for index, module in enumerate(module for module in model if isinstance(module, nn.BatchNorm2d)):
        assert module.running_mean is not None and module.running_var is not None
        module.running_mean.fill_(10 + index)
        module.running_var.fill_(20 + index)
        nn.init.constant_(module.weight, 30)
        nn.init.constant_(module.bias, 40)
    buffers, parameters = spec.buffers(model), spec.parameters(model)
    assert spec.buffer_count == 10
    assert buffers[spec.mean_mask].tolist() == [10, 10, 11, 11, 11]
    assert buffers[spec.variance_mask].tolist() == [20, 20, 21, 21, 21]
    assert parameters[spec.batchnorm_parameter_mask].tolist() == [30, 30, 40, 40, 30, 30, 30, 40, 40, 40]
    assert spec.parameter_count == (2 * 9 + 2) + 4 + (3 * 18 + 3) + 6


def test_masks_are_empty_without_batchnorm() -> None:
    spec = FlatSpec.of(model_of("convnet", "group"))
    assert spec.buffer_count == 0 and spec.mean_mask.shape == spec.variance_mask.shape == (0,)
    assert spec.batchnorm_parameter_mask.shape == (spec.parameter_count,) and not spec.batchnorm_parameter_mask.any()


def test_the_state_dict_is_named_views() -> None:
    model = model_of("convnet")
    spec = FlatSpec.of(model)
    parameters, buffers = spec.parameters(model), spec.buffers(model)
    state = spec.state_dict(parameters, buffers)
    expected = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert state.keys() == expected.keys()
    assert all(np.array_equal(state[name], value.numpy()) for name, value in expected.items())
    assert all(np.shares_memory(value, parameters) or np.shares_memory(value, buffers) for value in state.values())


def test_is_picklable() -> None:
    model = model_of("convnet")
    spec = pickle.loads(pickle.dumps(FlatSpec.of(model)))
    assert np.array_equal(spec.parameters(model), FlatSpec.of(model).parameters(model))
