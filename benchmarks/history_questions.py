"""x"""


async def ask(address, *, plans):
    return True
