"""Models in the layout of Hugging Face's transformers, in both directions, with the real library."""

import json
import shutil

import pytest
import torch
from conftest import SMALL, make_pair
from safetensors.torch import load_file, save_file

import torchwhisper

# Names of other lengths, no alignment with anything: every dimension that may differ does.
ODD = {**SMALL, "n_mels": 128, "n_audio_layer": 1, "n_text_layer": 3, "n_audio_head": 4, "n_vocab": 51866}
TINY_VOCABULARY = {**SMALL, "n_vocab": 99}


@pytest.fixture(scope="module")
def transformers():
    module = pytest.importorskip("transformers", reason="models are not compared with transformers")
    module.logging.set_verbosity_error()
    module.logging.disable_progress_bar()
    return module


def set_heads(model, pairs):
    heads = torch.zeros(model.dims.n_text_layer, model.dims.n_text_head, dtype=torch.bool)
    for pair in pairs:
        heads[tuple(pair)] = True
    model.register_buffer("alignment_heads", heads.to_sparse(), persistent=False)
    return model


def heads_of(model):
    return model.alignment_heads.indices().T.tolist()


def assert_same(got, expected):
    assert got.dims == expected.dims and got.training
    for (name, mine), theirs in zip(got.state_dict().items(), expected.state_dict().values(), strict=True):
        assert mine.dtype == torch.float32 and torch.equal(mine, theirs.float()), name
    assert heads_of(got) == heads_of(expected)


@pytest.fixture
def saved(model, tmp_path):
    """A folder that transformers could have written."""
    torchwhisper.save_model(set_heads(model, [(0, 1), (1, 0)]), tmp_path / "saved")
    return tmp_path / "saved"


def change(path, **fields):
    content = json.loads(path.read_text())
    content.update(fields)
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))


class TestTransformers:
    @pytest.mark.parametrize("dims", [SMALL, ODD, TINY_VOCABULARY], ids=["small", "odd", "vocabulary"])
    def test_logits_are_the_same(self, transformers, tmp_path, dims):
        model = set_heads(make_pair(dims)[1], [(0, 1), (1, 0)])
        torchwhisper.save_model(model, tmp_path / "saved")
        theirs, report = transformers.WhisperForConditionalGeneration.from_pretrained(
            tmp_path / "saved", output_loading_info=True
        )
        assert not any(report.values()), report
        mel = torch.randn(2, dims["n_mels"], 2 * dims["n_audio_ctx"])
        tokens = torch.randint(0, dims["n_vocab"], (2, 9))
        with torch.no_grad():
            expected = model(mel, tokens)
            got = theirs.eval()(input_features=mel, decoder_input_ids=tokens).logits
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
        assert theirs.generation_config.alignment_heads == [[0, 1], [1, 0]]

    def test_generates_the_same_tokens(self, transformers, model, mel, saved):
        theirs = transformers.WhisperForConditionalGeneration.from_pretrained(saved).eval()
        with torch.no_grad():
            got = theirs.generate(mel, language="de", task="translate", max_new_tokens=12)
        options = torchwhisper.DecodingOptions(
            language="de", task="translate", without_timestamps=True, sample_len=12, fp16=False
        )
        expected = [result.tokens for result in model.decode(mel, options)]
        assert [[t for t in row if t != 50257] for row in got.tolist()] == expected

    @pytest.mark.parametrize("parts", ["1GB", "4MB"])
    @pytest.mark.parametrize("in_memory", [False, True])
    def test_loads_what_transformers_saves(self, transformers, model, saved, tmp_path, parts, in_memory):
        theirs = transformers.WhisperForConditionalGeneration.from_pretrained(saved)
        theirs.save_pretrained(tmp_path / "theirs", max_shard_size=parts)
        assert (tmp_path / "theirs" / "model.safetensors").exists() == (parts == "1GB")
        assert_same(torchwhisper.load_model(str(tmp_path / "theirs"), in_memory=in_memory), model)

    def test_loads_the_model_without_its_head(self, transformers, model, saved, tmp_path):
        theirs = transformers.WhisperModel.from_pretrained(saved)
        theirs.save_pretrained(tmp_path / "theirs")
        set_heads(model, [(1, 0), (1, 1)])  # nothing says better
        assert_same(torchwhisper.load_model(tmp_path / "theirs"), model)

    def test_loads_an_old_folder(self, transformers, model, saved, tmp_path):
        theirs = transformers.WhisperForConditionalGeneration.from_pretrained(saved)
        (saved / "model.safetensors").unlink()
        assert "proj_out.weight" in theirs.state_dict()
        torch.save(theirs.half().state_dict(), saved / "pytorch_model.bin")
        assert_same(torchwhisper.load_model(saved, in_memory=True), model.half())


class TestFiles:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_one_file_says_all(self, model, tmp_path, dtype):
        set_heads(model, [(1, 1)]).to(dtype)
        torchwhisper.save_model(model, tmp_path / "model.safetensors")
        assert load_file(tmp_path / "model.safetensors")["model.encoder.conv1.weight"].dtype == dtype
        for in_memory in (False, True):
            assert_same(torchwhisper.load_model(tmp_path / "model.safetensors", in_memory=in_memory), model)

    def test_the_content_counts_not_the_suffix(self, model, tmp_path):
        torchwhisper.save_model(model, tmp_path / "model.pt", format="safetensors")
        assert_same(torchwhisper.load_model(tmp_path / "model.pt"), model)

    def test_a_bare_file_takes_the_config_beside_it(self, model, saved):
        save_file(load_file(saved / "model.safetensors"), saved / "other.safetensors")
        assert_same(torchwhisper.load_model(saved / "other.safetensors"), model)

    def test_official_dumps_survive(self, tmp_path):
        model = torchwhisper.load_model("demo")
        torchwhisper.save_model(model, tmp_path / "demo")
        assert_same(torchwhisper.load_model(tmp_path / "demo"), model)

    @pytest.mark.parametrize(
        "heads", [[[9, 0]], [[0, -1]], [[0]], "all", [["0", "1"]], [0, 1], [[True, False]], {"a": 1}]
    )
    def test_bad_alignment_heads_are_warned_of(self, model, saved, heads):
        change(saved / "generation_config.json", alignment_heads=heads)
        with pytest.warns(
            UserWarning, match=r"the alignment_heads of .*saved are not pairs of a layer and a head"
        ):
            loaded = torchwhisper.load_model(saved)
        assert heads_of(loaded) == [[1, 0], [1, 1]]

    @pytest.mark.parametrize("heads", [None, [], "absent"])
    def test_no_alignment_heads(self, saved, heads):
        change(saved / "generation_config.json", alignment_heads=heads)
        assert heads_of(torchwhisper.load_model(saved)) == [[1, 0], [1, 1]]


class TestBadFolders:
    def refuses(self, path, match):
        with pytest.raises(RuntimeError, match=match) as caught:
            torchwhisper.load_model(str(path))
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)

    @pytest.mark.parametrize(
        ("field", "value", "match"),
        [
            ("model_type", "wav2vec2", "its config.json has model_type 'wav2vec2', expected 'whisper'"),
            ("model_type", "absent", "its config.json has model_type None"),
            ("activation_function", "relu", "activation_function 'relu', expected 'gelu'"),
            ("scale_embedding", True, "scale_embedding True, expected False"),
            ("num_mel_bins", "absent", "its config.json has no num_mel_bins"),
            ("d_model", 0, "impossible dims"),
            ("vocab_size", 1 << 40, "impossible dims: n_vocab is 1099511627776"),
            ("decoder_layers", "two", "impossible dims: n_text_layer is 'two'"),
            ("decoder_layers", 3, r"lacks model\.decoder\.layers\.2\.self_attn\.q_proj\.weight, "),
            ("encoder_layers", 1, r"has unexpected entries: model\.encoder\.layers\.1\."),
            (
                "vocab_size",
                9,
                r"bad tensor model\.decoder\.embed_tokens\.weight: got shape \(51865, 64\), expected",
            ),
        ],
    )
    def test_config(self, saved, field, value, match):
        change(saved / "config.json", **{field: value})
        self.refuses(saved, match)

    def test_missing_and_damaged_files(self, saved):
        (saved / "generation_config.json").write_text("{")
        self.refuses(saved, r"generation_config\.json is damaged")
        (saved / "generation_config.json").unlink()
        torchwhisper.load_model(saved)
        data = (saved / "model.safetensors").read_bytes()
        for wrong in (b"", b"x", data[:100], data[: len(data) // 2], bytes(100)):
            (saved / "model.safetensors").write_bytes(wrong)
            self.refuses(saved, "the safetensors file is damaged")
            self.refuses(saved / "model.safetensors", "the safetensors file is damaged")
        (saved / "model.safetensors").write_bytes(data)
        (saved / "config.json").write_text("[]")
        self.refuses(saved, r"config\.json is damaged")
        (saved / "config.json").unlink()
        self.refuses(saved, r"config\.json is missing")
        (saved / "model.safetensors").unlink()
        self.refuses(saved, r"it is a directory without model\.safetensors or pytorch_model\.bin")
        (saved / "model.bin").touch()
        self.refuses(
            saved, r"a model of CTranslate2 \(faster-whisper\): give the model that it was converted"
        )

    def test_folders_of_other_programs(self, saved):
        weights = saved / "model.safetensors"
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        for path in (saved, weights):
            self.refuses(path, "it is a pointer of Git LFS: git lfs pull brings the file itself")
        weights.unlink()
        (saved / "best.pt").touch()
        self.refuses(saved, r"it is a folder: give the file in it, .*best\.pt$")
        (saved / "adapter_config.json").touch()
        self.refuses(saved, "it is an adapter of PEFT: merge it with its model and save that")

    def test_one_part_of_several(self, saved):
        part = saved / "model-00001-of-00002.safetensors"
        (saved / "model.safetensors").rename(part)
        save_file(load_file(part), part)
        self.refuses(part, "it is one part of several: give their folder")

    @pytest.mark.parametrize(
        ("index", "match"),
        [
            ("{}", "names no files of its folder"),
            ('{"weight_map": {"a": "../model.safetensors"}}', "names no files of its folder"),
            (
                '{"weight_map": {"a": "gone.safetensors"}}',
                r"gone\.safetensors is missing, which model\.safetens",
            ),
            ("no", r"index\.json is damaged"),
        ],
    )
    def test_index(self, saved, index, match):
        (saved / "model.safetensors").unlink()
        (saved / "model.safetensors.index.json").write_text(index)
        self.refuses(saved, match)

    def test_an_output_projection_of_its_own(self, saved):
        state = load_file(saved / "model.safetensors")
        state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"] + 1
        save_file(state, saved / "model.safetensors")
        self.refuses(saved, r"its proj_out\.weight differs from its token embedding")

    def test_a_bare_file_without_config(self, saved, tmp_path):
        save_file(load_file(saved / "model.safetensors"), tmp_path / "bare.safetensors")
        self.refuses(tmp_path / "bare.safetensors", r"config\.json is missing")

    def test_damaged_dims_in_the_header(self, saved, tmp_path):
        for dims in ("{", "[]"):
            save_file(load_file(saved / "model.safetensors"), tmp_path / "x.safetensors", {"dims": dims})
            self.refuses(tmp_path / "x.safetensors", "the dims in its header are damaged")

    def test_weights_that_hold_code(self, saved):
        (saved / "model.safetensors").unlink()
        torch.save({"a": shutil.rmtree}, saved / "pytorch_model.bin")
        self.refuses(saved, "more than tensors and plain values")

    def test_bare_weights_name_the_way(self, saved):
        torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
        self.refuses(saved / "pytorch_model.bin", "Hugging Face names: give the folder that holds it")
