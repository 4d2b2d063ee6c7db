"""Causal multimodal recommendation: `from causalmmr import load, simulate, fit, evaluate, LightGCN, CaMRec` is the front door"""
__version__ = "0.1.0"

# What is behind the door, by module. A name is imported when it is asked for: `import causalmmr` itself brings no torch along.
DOOR = {
    'data':                   'BadInput MMData check describe',
    'formats':                'available convert fetch load',
    'causal.scm':             'World brands seasons simulate smoke toy world',
    'train':                  'Recommender evaluate fit linear rank rng xavier',
    'losses':                 'bpr info_nce l2',
    'metrics':                'ndcg precision recall',
    'store':                  'dataset load_run run study',
    'compare':                'pick verdict',
    'models.classic':         'CEASE DGCF EASE LightGCN MFBPR MacridVAE NGCF NeuMF Popularity UltraGCN',
    'models.multimodal':      'DRAGON DualGNN GRCN HUIGN MMGCN VBPR',
    'models.itemgraph':       'FREEDOM LATTICE LGMRec MGCN MICRO',
    'models.selfsup':         'BM3 CLCRec DMRL MAML MENTOR SLMRec',
    'models.generative':      'DiffMM MMSSL',
    'models.debias':          'CausE IPSBPR PDA',
    'models.camrec':          'CaMRec',
    'models.fmmrec':          'FMMRec take_apart',
    'models.addrl':           'ADDRL',
    'models.painvrl':         'ContentUltraGCN InvRL PaInvRL mask_of',
    'fair.filters':           'FairTuning LEACE freeze',
    'causal.backdoor':        'Estimate adjusted_preference e_value hierarchical ips naive placebo propensity',
    'causal.frontdoor':       'both_doors frontdoor neural_frontdoor',
    'disentangle':            'erase',
    'chunks':                 'attributes probe separation',
    'fair.attack':            'counterfactual leakage lists_per_user official per_group strict views',
    'invariant.environments': 'abroad judge',
    'invariant.search':       'MaskSearch find_mask',
    'tables':                 'Table'}
WHERE = {name: module for module,names in DOOR.items() for name in names.split()}
__all__ = sorted(WHERE)

def __getattr__(name):
    if name not in WHERE:
        from difflib import get_close_matches
        near = get_close_matches(name, WHERE, 1, .7)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'" + (f"; did you mean '{near[0]}'?" if near else ''))
    from importlib import import_module
    value = globals()[name] = getattr(import_module(f'{__name__}.{WHERE[name]}'), name)
    return value

def __dir__(): return sorted({*globals(), *WHERE})
