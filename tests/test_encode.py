"""Encoders against judges of their own: transformers' BERT, timm's networks; and from the shell."""
import json, sys
import numpy as np, pytest, torch
from PIL import Image
from causalmmr import encode

def saved_bert(folder, **c):
    "A small random BERT as its publisher would put it into a folder, with a tokenizer of whole words."
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel
    torch.manual_seed(0)
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'red', 'dress', 'steel', 'drill', 'and', 'more']
    net = BertModel(BertConfig(vocab_size=len(words), hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, max_position_embeddings=16, **c)).eval()
    for p in net.parameters(): p.data.add_(.1*torch.randn(p.shape))          # biases and norms must matter too
    net.save_pretrained(folder)
    tok = Tokenizer(models.WordLevel({w: k for k, w in enumerate(words)}, unk_token='[UNK]')); tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    tok.save(str(folder/'tokenizer.json'))
    return net, tok

TEXTS = ['red dress', 'steel', 'steel drill and red dress and more', 'nothing known']

@pytest.mark.parametrize('first', [False, True])
def test_the_same_as_transformers(tmp_path, first):
    net, tok = saved_bert(tmp_path)
    (tmp_path/'1_Pooling').mkdir(); (tmp_path/'1_Pooling/config.json').write_text(json.dumps(dict(pooling_mode_cls_token=first, pooling_mode_mean_tokens=not first)))
    ours = encode.sentence_encoder(tmp_path)
    x = ours.apply(TEXTS)
    for text, v in zip(TEXTS, x):
        with torch.no_grad(): h = net(torch.tensor([tok.encode(text).ids])).last_hidden_state[0]
        want = torch.nn.functional.normalize(h[0] if first else h.mean(0), dim=0)
        assert (v-want).abs().max() < 1e-6
    assert ours.width == 48 and len(ours.sha256) == 16 and ours.name == tmp_path.name

def test_a_model_of_another_shape_goes_to_its_own_package(tmp_path):
    saved_bert(tmp_path)
    (tmp_path/'tokenizer_config.json').write_text(json.dumps(dict(tokenizer_class='PreTrainedTokenizerFast', pad_token='[PAD]', unk_token='[UNK]', cls_token='[CLS]', sep_token='[SEP]')))
    ours = encode.sentence_encoder(tmp_path).apply(TEXTS)
    c = json.loads((tmp_path/'config.json').read_text()); (tmp_path/'tokenizer.json').rename(tmp_path/'words.json')
    with pytest.raises(encode.BadInput): encode.sentence_encoder(tmp_path)                     # without its words it cannot be read by anybody
    (tmp_path/'words.json').rename(tmp_path/'tokenizer.json')
    (tmp_path/'config.json').write_text(json.dumps(c | dict(hidden_act='gelu_new')))
    other = encode.sentence_encoder(tmp_path)
    x = torch.nn.functional.normalize(other.apply(TEXTS), dim=1)
    assert 'sentence-transformers' in other.version and 1e-7 < (x-ours).abs().max() < .01      # a gelu that is a little different

TIMM = """
import torch
class Net(torch.nn.Module):
    def __init__(self, n):
        super().__init__(); self.body = torch.nn.Conv2d(3, 8, 5, 4); self.head = torch.nn.Linear(8, n) if n else torch.nn.Identity()
    def forward(self, x): return self.head(self.body(x).mean((2, 3)))
def create_model(name, pretrained, num_classes):
    assert name == 'tiny' and not pretrained
    return Net(num_classes)
"""

def test_a_network_of_timm_from_its_folder(tmp_path, monkeypatch):
    "A package that answers as timm does: its pictures are prepared as config.json says, and its classifier is left out."
    (tmp_path/'timm').mkdir(); (tmp_path/'timm/__init__.py').write_text(TIMM)
    (tmp_path/'timm-9.dist-info').mkdir(); (tmp_path/'timm-9.dist-info/METADATA').write_text('Metadata-Version: 2.1\nName: timm\nVersion: 9\n')
    monkeypatch.syspath_prepend(str(tmp_path)); monkeypatch.delitem(sys.modules, 'timm', raising=False)
    import timm
    from safetensors.torch import save_file
    net, at = timm.create_model('tiny', False, 10), tmp_path/'own'
    at.mkdir(); save_file(net.state_dict(), at/'model.safetensors')
    (at/'config.json').write_text(json.dumps(dict(architecture='tiny', pretrained_cfg=dict(input_size=[3, 64, 64], mean=[.5]*3, std=[.25]*3, crop_pct=1.))))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path/'p.png')
    ours = encode.find_encoder('image', str(at))
    x = (torch.from_numpy(np.array(Image.open(tmp_path/'p.png'))).permute(2, 0, 1)[None]/255-.5)/.25
    with torch.no_grad(): want = net.body(x).mean((2, 3))
    assert ours.width == 8 and ours.version == 'timm 9' and (ours.apply([tmp_path/'p.png'])-want).abs().max() < 1e-5
    save_file({k: v for k, v in net.state_dict().items() if k != 'body.bias'}, at/'model.safetensors')
    with pytest.raises(encode.BadInput): encode.find_encoder('image', str(at))                 # a weight that is missing is not made up
    sys.modules.pop('timm')

def test_importing_the_package_needs_no_encoder():
    import subprocess
    code = "import sys; sys.modules.update(dict.fromkeys(['tokenizers','efficientnet_lite_pytorch','timm','sentence_transformers','PIL'])); import causalmmr.encode, causalmmr.shop; print('fine')"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout == 'fine\n'
