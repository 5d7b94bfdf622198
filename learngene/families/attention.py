"Attention modules of timm's families with any number of heads: the same tensors, the output as wide as the heads."
import math

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from timm.models.swin_transformer_v2 import WindowAttention as WindowAttentionV2
from timm.models.vision_transformer_relpos import RelPosAttention
from torch.nn import functional as F


class SharedHeads:
    "Take the parts that belong to a block's own heads from what all blocks share."
    shared_heads = None  # for each head its index in the shared tensors; None = in order

    def own(self, shared):
        "Select heads from shared embeddings or biases (..., heads, tokens, n)."
        if shared is None or self.shared_heads is None or shared.ndim < 3 or shared.shape[-3] == 1:
            return shared
        return shared.index_select(-3, torch.tensor(self.shared_heads, device=shared.device))


def mix_values(attn, q, k, v, bias=None, is_causal=False):
    "Attend with (B, heads, tokens, head_dim); return (B, tokens, heads * head_dim)."
    if attn.fused_attn:
        dropout = attn.attn_drop.p if attn.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, is_causal=is_causal)
    else:
        scores = q * attn.scale @ k.transpose(-2, -1)
        if is_causal:
            scores = scores + torch.full(scores.shape[-2:], -torch.inf, device=q.device).triu(1)
        elif bias is not None:
            scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias
        x = attn.attn_drop(scores.softmax(-1)) @ v
    return x.transpose(1, 2).flatten(2)


def joint_qkv(attn, x):
    "Compute queries, keys and values, (B, heads, tokens, head_dim) each."
    biases = None if attn.q_bias is None else torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    if attn.qkv_bias_separate and biases is not None:
        qkv = attn.qkv(x) + biases
    else:
        qkv = F.linear(x, attn.qkv.weight, biases)
    return qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class CutRopeAttention(SharedHeads, AttentionRope):
    "timm's AttentionRope, with the rotary frequencies of its own heads."
    def forward(self, x, rope=None, attn_mask=None, is_causal=False):
        return super().forward(x, self.own(rope), attn_mask, is_causal)


class CutEvaAttention(SharedHeads, EvaAttention):
    "timm's EvaAttention with any number of heads."
    def forward(self, x, rope=None, attn_mask=None, is_causal=False):
        if self.qkv is not None:
            q, k, v = joint_qkv(self, x)
        else:
            q, k, v = (proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
                       for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = (self._rotated(t, self.own(rope)).type_as(v) for t in (q, k))
        gate = 1 if self.gate is None else self.gate(x).sigmoid()
        return self.proj_drop(self.proj(mix_values(self, q, k, v, attn_mask, is_causal) * gate))

    def _rotated(self, t, rope):
        "Turn queries or keys, all but those of the first tokens."
        first, rest = t.split([self.num_prefix_tokens, t.shape[2] - self.num_prefix_tokens], dim=2)
        return torch.cat([first, apply_rot_embed_cat(rest, rope, half=self.rotate_half)], dim=2)


class CutBeitAttention(SharedHeads, BeitAttention):
    "BEiT's attention with any number of heads."
    def forward(self, x, shared_rel_pos_bias=None):
        bias = self.own(shared_rel_pos_bias)
        if self.relative_position_bias_table is not None:
            table = self._get_rel_pos_bias()
            bias = table if bias is None else table + bias
        return self.proj_drop(self.proj(mix_values(self, *joint_qkv(self, x), bias)))


class CutRelPosAttention(SharedHeads, RelPosAttention):
    "The attention of timm's VisionTransformerRelPos with any number of heads."
    def forward(self, x, shared_rel_pos=None):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.own(shared_rel_pos) if self.rel_pos is None else self.rel_pos.get_bias()
        return self.proj_drop(self.proj(mix_values(self, self.q_norm(q), self.k_norm(k), v, bias)))


class CutWindowAttentionV2(WindowAttentionV2):
    "Swin V2's cosine attention in windows with any number of heads."
    def forward(self, x, mask=None):
        q, k, v = joint_qkv(self, x)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = scores * self.logit_scale.clamp(max=math.log(100)).exp() + self._position_bias()
        if mask is not None:
            by_window = scores.unflatten(0, (-1, len(mask))) + mask[:, None]
            scores = by_window.flatten(0, 1)
        x = self.attn_drop(self.softmax(scores)) @ v
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))

    def _position_bias(self):
        "Compute every head's bias for every pair of tokens, (heads, tokens, tokens)."
        table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
        return 16 * table[self.relative_position_index].permute(2, 0, 1).sigmoid()


CUT_CLASS = {AttentionRope: CutRopeAttention, EvaAttention: CutEvaAttention, BeitAttention: CutBeitAttention,
             RelPosAttention: CutRelPosAttention, WindowAttentionV2: CutWindowAttentionV2}
