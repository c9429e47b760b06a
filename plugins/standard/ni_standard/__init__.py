"""The paper's parts, as components: they come in through entry points and import only what any plugin may."""
