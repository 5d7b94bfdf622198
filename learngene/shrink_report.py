"placeholder"
class ShrinkReport: pass
