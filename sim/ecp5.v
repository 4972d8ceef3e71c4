// ECP5 primitives, as far as rtl/ and its netlists use them; yosys has no models of these.

// Registers: `CLK0` or none at each place, never reset. Lattice TN1267 (ECP5 sysDSP usage guide).
module MULT18X18D #(
    parameter REG_INPUTA_CLK = "NONE", parameter REG_INPUTB_CLK = "NONE",
    parameter REG_PIPELINE_CLK = "NONE", parameter REG_OUTPUT_CLK = "NONE",
    parameter GSR = "ENABLED"
) (
    input A0, A1, A2, A3, A4, A5, A6, A7, A8, A9, A10, A11, A12, A13, A14, A15, A16, A17,
    input B0, B1, B2, B3, B4, B5, B6, B7, B8, B9, B10, B11, B12, B13, B14, B15, B16, B17,
    input C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13, C14, C15, C16, C17,
    input SRIA0, SRIA1, SRIA2, SRIA3, SRIA4, SRIA5, SRIA6, SRIA7, SRIA8, SRIA9, SRIA10, SRIA11,
    input SRIA12, SRIA13, SRIA14, SRIA15, SRIA16, SRIA17,
    input SRIB0, SRIB1, SRIB2, SRIB3, SRIB4, SRIB5, SRIB6, SRIB7, SRIB8, SRIB9, SRIB10, SRIB11,
    input SRIB12, SRIB13, SRIB14, SRIB15, SRIB16, SRIB17,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
    input CLK0, CLK1, CLK2, CLK3, CE0, CE1, CE2, CE3, RST0, RST1, RST2, RST3,
    output P0, P1, P2, P3, P4, P5, P6, P7, P8, P9, P10, P11, P12, P13, P14, P15, P16, P17, P18,
    output P19, P20, P21, P22, P23, P24, P25, P26, P27, P28, P29, P30, P31, P32, P33, P34, P35
);
    wire [17:0] a_now = {A17, A16, A15, A14, A13, A12, A11, A10, A9,
                         A8, A7, A6, A5, A4, A3, A2, A1, A0};
    wire [17:0] b_now = {B17, B16, B15, B14, B13, B12, B11, B10, B9,
                         B8, B7, B6, B5, B4, B3, B2, B1, B0};
    reg [17:0] a_register, b_register;
    reg [35:0] middle_register, p_register;
    wire [17:0] a = REG_INPUTA_CLK == "NONE" ? a_now : a_register;
    wire [17:0] b = REG_INPUTB_CLK == "NONE" ? b_now : b_register;
    wire signed [18:0] wide_a = {SIGNEDA & a[17], a};
    wire signed [18:0] wide_b = {SIGNEDB & b[17], b};
    wire signed [37:0] product = wide_a * wide_b;
    wire [35:0] middle = REG_PIPELINE_CLK == "NONE" ? product[35:0] : middle_register;
    wire [35:0] p = REG_OUTPUT_CLK == "NONE" ? middle : p_register;
    always @(posedge CLK0)
        if (CE0) begin
            a_register <= a_now;
            b_register <= b_now;
            middle_register <= product[35:0];
            p_register <= middle;
        end
    assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19,
            P18, P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = p;
endmodule

// Block RAM of which port A writes and port B, as wide and without a register, reads. Undefined are
// what it holds at first and a byte read while it is written. Lattice TN1264 (ECP5 memory usage
// guide).
module DP16KD #(
    parameter DATA_WIDTH_A = 18, parameter DATA_WIDTH_B = 18,
    parameter REGMODE_A = "NOREG", parameter REGMODE_B = "NOREG",
    parameter RESETMODE = "SYNC", parameter ASYNC_RESET_RELEASE = "SYNC",
    parameter CSDECODE_A = "0b000", parameter CSDECODE_B = "0b000",
    parameter WRITEMODE_A = "NORMAL", parameter WRITEMODE_B = "NORMAL",
    parameter CLKAMUX = "CLKA", parameter CLKBMUX = "CLKB", parameter GSR = "ENABLED",
    parameter [319:0]
        INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0, INITVAL_04 = 0,
        INITVAL_05 = 0, INITVAL_06 = 0, INITVAL_07 = 0, INITVAL_08 = 0, INITVAL_09 = 0,
        INITVAL_0A = 0, INITVAL_0B = 0, INITVAL_0C = 0, INITVAL_0D = 0, INITVAL_0E = 0,
        INITVAL_0F = 0, INITVAL_10 = 0, INITVAL_11 = 0, INITVAL_12 = 0, INITVAL_13 = 0,
        INITVAL_14 = 0, INITVAL_15 = 0, INITVAL_16 = 0, INITVAL_17 = 0, INITVAL_18 = 0,
        INITVAL_19 = 0, INITVAL_1A = 0, INITVAL_1B = 0, INITVAL_1C = 0, INITVAL_1D = 0,
        INITVAL_1E = 0, INITVAL_1F = 0, INITVAL_20 = 0, INITVAL_21 = 0, INITVAL_22 = 0,
        INITVAL_23 = 0, INITVAL_24 = 0, INITVAL_25 = 0, INITVAL_26 = 0, INITVAL_27 = 0,
        INITVAL_28 = 0, INITVAL_29 = 0, INITVAL_2A = 0, INITVAL_2B = 0, INITVAL_2C = 0,
        INITVAL_2D = 0, INITVAL_2E = 0, INITVAL_2F = 0, INITVAL_30 = 0, INITVAL_31 = 0,
        INITVAL_32 = 0, INITVAL_33 = 0, INITVAL_34 = 0, INITVAL_35 = 0, INITVAL_36 = 0,
        INITVAL_37 = 0, INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A = 0, INITVAL_3B = 0,
        INITVAL_3C = 0, INITVAL_3D = 0, INITVAL_3E = 0, INITVAL_3F = 0
) (
    input ADA0, ADA1, ADA2, ADA3, ADA4, ADA5, ADA6, ADA7, ADA8, ADA9, ADA10, ADA11, ADA12, ADA13,
    input DIA0, DIA1, DIA2, DIA3, DIA4, DIA5, DIA6, DIA7, DIA8, DIA9, DIA10, DIA11, DIA12, DIA13,
          DIA14, DIA15, DIA16, DIA17,
    input ADB0, ADB1, ADB2, ADB3, ADB4, ADB5, ADB6, ADB7, ADB8, ADB9, ADB10, ADB11, ADB12, ADB13,
    input DIB0, DIB1, DIB2, DIB3, DIB4, DIB5, DIB6, DIB7, DIB8, DIB9, DIB10, DIB11, DIB12, DIB13,
          DIB14, DIB15, DIB16, DIB17,
    input CLKA, CEA, OCEA, WEA, RSTA, CSA0, CSA1, CSA2,
    input CLKB, CEB, OCEB, WEB, RSTB, CSB0, CSB1, CSB2,
    output DOA0, DOA1, DOA2, DOA3, DOA4, DOA5, DOA6, DOA7, DOA8, DOA9, DOA10, DOA11, DOA12, DOA13,
          DOA14, DOA15, DOA16, DOA17,
    output DOB0, DOB1, DOB2, DOB3, DOB4, DOB5, DOB6, DOB7, DOB8, DOB9, DOB10, DOB11, DOB12, DOB13,
          DOB14, DOB15, DOB16, DOB17
);
    localparam WIDTH = DATA_WIDTH_A;
    localparam BYTES = WIDTH > 9 ? WIDTH / 9 : 1;
    localparam BYTE = WIDTH / BYTES;
    localparam SHIFT = $clog2(WIDTH - WIDTH / 9);
    if (DATA_WIDTH_B != DATA_WIDTH_A || REGMODE_B != "NOREG" || CLKAMUX != "CLKA"
            || CLKBMUX != "CLKB" || CSDECODE_A != "0b000" || CSDECODE_B != "0b000" || |{
            INITVAL_00, INITVAL_01, INITVAL_02, INITVAL_03, INITVAL_04, INITVAL_05, INITVAL_06,
            INITVAL_07, INITVAL_08, INITVAL_09, INITVAL_0A, INITVAL_0B, INITVAL_0C, INITVAL_0D,
            INITVAL_0E, INITVAL_0F, INITVAL_10, INITVAL_11, INITVAL_12, INITVAL_13, INITVAL_14,
            INITVAL_15, INITVAL_16, INITVAL_17, INITVAL_18, INITVAL_19, INITVAL_1A, INITVAL_1B,
            INITVAL_1C, INITVAL_1D, INITVAL_1E, INITVAL_1F, INITVAL_20, INITVAL_21, INITVAL_22,
            INITVAL_23, INITVAL_24, INITVAL_25, INITVAL_26, INITVAL_27, INITVAL_28, INITVAL_29,
            INITVAL_2A, INITVAL_2B, INITVAL_2C, INITVAL_2D, INITVAL_2E, INITVAL_2F, INITVAL_30,
            INITVAL_31, INITVAL_32, INITVAL_33, INITVAL_34, INITVAL_35, INITVAL_36, INITVAL_37,
            INITVAL_38, INITVAL_39, INITVAL_3A, INITVAL_3B, INITVAL_3C, INITVAL_3D, INITVAL_3E,
            INITVAL_3F
    })
        $error("a use of DP16KD that has no model");

    wire [13:0] write_address = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4,
        ADA3, ADA2, ADA1, ADA0};
    wire [13:0] read_address = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4,
        ADB3, ADB2, ADB1, ADB0};
    wire [35:0] data = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7,
        DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0, DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11,
        DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
    wire [13:0] write_word = write_address >> SHIFT;
    wire [13:0] read_word = read_address >> SHIFT;
    wire writing = CEA & WEA & ~|{CSA2, CSA1, CSA0};
    wire reading = CEB & ~|{CSB2, CSB1, CSB0};
    wire [BYTES-1:0] enable = BYTES == 1 ? writing : write_address[BYTES-1:0] & {BYTES{writing}};
    reg [WIDTH-1:0] memory [0:(1 << 14 - SHIFT) - 1];
    reg [WIDTH-1:0] word;
    integer n;
    always @(posedge CLKA)
        for (n = 0; n < BYTES; n = n + 1)
            if (enable[n])
                memory[write_word][BYTE * n +: BYTE] <= data[BYTE * n +: BYTE];
    always @(posedge CLKB) begin
        if (reading)
            for (n = 0; n < BYTES; n = n + 1)
                word[BYTE * n +: BYTE] <= enable[n] & write_word == read_word
                    ? {BYTE{1'bx}} : memory[read_word][BYTE * n +: BYTE];
        if (WEB | RSTB)
            $fatal(1, "port B of DP16KD only reads, and is never reset");
    end
    wire [35:0] wide = word;
    wire [35:0] out = WIDTH == 36 ? wide : {wide[17:0], 18'bx};
    assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5,
        DOB4, DOB3, DOB2, DOB1, DOB0, DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9,
        DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0} = out;
endmodule
