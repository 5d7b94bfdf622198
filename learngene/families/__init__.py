"Knowledge of timm's families of vision transformers: which tensors belong to heads and hidden units, and the windows."
